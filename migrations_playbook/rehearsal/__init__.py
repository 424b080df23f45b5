"""The whole play under the traffic of two releases at a time, with a verdict.

- `script`: what is rehearsed: the model, the releases' settings, the commands.
- `play`: the phases in their order; yields events.
- `events`: what happens, and what came of it.
- `scratch`: the database that it happens in, made and dropped.
- `client`: one process of a release, at work through Django's ORM; keeps its own books.
- `fleet`: starts those processes, and collects what they report.
- `witness`: when the columns were exchanged, as a bystander sees it.
- `audit`: compares the clients' books with the table.
- `measure`: requests, latencies, phases.
- `report`: `report.json` and `report.html`.
"""
