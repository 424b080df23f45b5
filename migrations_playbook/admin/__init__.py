"""The page in Django's admin. Loaded by the admin, which looks for a module of this name."""

from django.contrib import admin

from migrations_playbook.admin.pages import PlaybookAdmin
from migrations_playbook.models import Playbook

admin.site.register(Playbook, PlaybookAdmin)
