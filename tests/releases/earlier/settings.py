from app.settings import *  # noqa: F403
from app.settings import INSTALLED_APPS as OURS

INSTALLED_APPS = ["tests.releases.earlier" if name == "tickets" else name for name in OURS]
