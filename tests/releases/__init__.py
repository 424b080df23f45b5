"""The four releases of a rotation, as they would be deployed one after the other.

Their migrations have been applied, and run unchanged for ever. (A rehearsal needs none of them: it
derives its releases from the history of the migrations.)

| release | code knows           | migrations                                             |
|---------|----------------------|--------------------------------------------------------|
| n       | `token`              | 0001: the table                                        |
| n1      | `token`, `new_token` | 0002: expand; 0003: its triggers renewed               |
| n2      | `token`              | 0004: the field leaves Django's state, and stays in    |
|         |                      | the database                                           |
| n3      | `token`              | 0005: contract                                         |

All four are the app "tickets" over one database: each has settings, models and migrations of its
own. N+1 is the app `tickets` of this project itself.
`earlier` is an N+3 whose contract was written before 0003 was.
A release brings the migrations of those before it by having their folders in its `__path__`.
"""
