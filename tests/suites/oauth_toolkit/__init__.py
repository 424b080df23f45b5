"""What the tests of django-oauth-toolkit import and their sdist leaves out, and our shadows.

The modules are copied into the package `tests` of the unpacked sdist, beside the tests, which are
run as they are.
"""
