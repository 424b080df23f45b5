"""The whole play under the traffic of two releases at a time, with a verdict.

- `script`: what is rehearsed, and how.
- `states`: the four releases, as they follow from the migrations.
- `play`: the whole rehearsal; yields happenings.
- `acts`: what happens in each phase.
- `course`: how the phases go: their times, and what is told meanwhile.
- `happenings`: what a command shows.
- `verdict`: what came of it.
- `scratch`: the database that it happens in, made and dropped.
- `runner`: starts the processes; `__main__` is what each of them does.
- `stage`: what is done to the scratch database besides the commands.
- `traffic`: the releases at work, and their books.
- `report`: `report.html`.
"""
