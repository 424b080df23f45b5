"""The requests of the releases at work, and the books that tell whether each was served rightly.

- `client`: one client of a release, at work through Django's ORM; keeps its own books.
- `crew`: the clients of one process, and what they report.
- `rows`: how a row is made.
- `stamps`: the field that they write.
- `fleet`: starts those processes, and collects what they report.
- `measure`: requests, and what they add up to.
- `witness`: when the columns were exchanged, as a bystander sees it.
- `audit`: compares the clients' books with the table.
"""
