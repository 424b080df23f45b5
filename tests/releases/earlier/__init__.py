"""Release N+3 of a project whose contract was written before the triggers were renewed.

Its migrations name the triggers as the first expand had them, and must go on to run.
"""
