"""The wheel, installed alone: a project that has nothing else plays the tutorial with it."""
