"""The requests of the releases at work, and the books that tell whether each was served rightly.

- `client`: one process of a release, at work through Django's ORM; keeps its own books.
- `fleet`: starts those processes, and collects what they report.
- `measure`: requests, and what they add up to.
- `witness`: when the columns were exchanged, as a bystander sees it.
- `audit`: compares the clients' books with the table.
"""
