"""The requests of the releases at work, and the books that tell whether each was served rightly.

- `client`: a client of a release, at work through Django's ORM; keeps its own books.
- `crew`: the clients of a process, and their reports.
- `rows`: how a row is made.
- `stamps`: the field that they write.
- `fleet`: starts the processes, and collects their reports.
- `measure`: requests, and their sums.
- `witness`: the times of the exchanges, as a bystander sees them.
- `audit`: compares the clients' books with the table.
"""
