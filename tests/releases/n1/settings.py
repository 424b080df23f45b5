from app.settings import *  # noqa: F403
