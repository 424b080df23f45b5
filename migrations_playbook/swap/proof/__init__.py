"""The proof: what is counted, read through, told to an auditor, and watched from then on."""
