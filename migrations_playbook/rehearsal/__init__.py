"""The whole play under the traffic of two releases at a time, with a verdict.

- `script`: the rehearsed column, and how.
- `states`: the four releases, as they follow from the migrations.
- `play`: the whole rehearsal; yields happenings.
- `acts`: the work of each phase.
- `course`: how the phases go: their times, and the news meanwhile.
- `happenings`: the news for a command to show.
- `verdict`: the result.
- `scratch`: the rehearsal's own database, made and dropped.
- `runner`: starts the processes; `__main__` is the work of each.
- `stage`: work on the scratch database besides the commands.
- `traffic`: the releases at work, and their books.
- `report`: `report.html`.
"""
