"""The four releases of a rotation, as they would be deployed one after the other.

| release | code knows           | migrations                                             |
|---------|----------------------|--------------------------------------------------------|
| n       | `token`              | 0001: the table                                        |
| n1      | `token`, `new_token` | 0002: expand                                           |
| n2      | `token`              | 0003: the field leaves Django's state, and stays in    |
|         |                      | the database                                           |
| n3      | `token`              | 0004: contract                                         |

All four are the app "tickets" over one database: each has settings, models and migrations of its
own. N+1 is the app `tickets` of this project itself, so that what is rehearsed is what is shipped.
A release brings the migrations of those before it by having their folders in its `__path__`.
"""
