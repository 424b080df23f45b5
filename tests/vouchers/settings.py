from app.settings import *  # noqa: F403
from app.settings import INSTALLED_APPS as OURS

INSTALLED_APPS = [*OURS, "tests.vouchers"]
