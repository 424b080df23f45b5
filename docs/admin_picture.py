"""Make the picture of the admin's page again: a real backfill, in a real browser.

    python docs/admin_picture.py [ROWS]

It starts a server of its own, gives it ROWS tickets (400000), lets a backfill of 9,000 rows a
second run, follows it for a while with Debian's Chromium, and writes docs/pictures/admin.png.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

FOLLOW_SECONDS = 12.0
WIDTH, HEIGHT = 1280, 775
BACKFILL = ("backfill_new_token", "--no-throttle", "--no-progress", "--max-rows-per-second", "9000")


def main() -> None:
    """Let a backfill run, and take the picture."""
    from app.embedded.server import Cluster  # noqa: PLC0415 - found through the path above

    rows = sys.argv[1] if len(sys.argv) > 1 else "400000"
    with tempfile.TemporaryDirectory(prefix="pictures-") as name:
        folder = Path(name)
        # The server runs as another user, who must get to its data folder.
        folder.chmod(0o711)
        with Cluster(folder / "data") as cluster:
            os.environ |= {"DATABASE_URL": cluster.url(), "DJANGO_SETTINGS_MODULE": "app.settings"}
            for prepared in (["migrate", "tickets", "0001"], ["seed_tickets", rows], ["migrate"]):
                subprocess.run([sys.executable, "manage.py", *prepared], cwd=PROJECT, check=True)
            with subprocess.Popen([sys.executable, "manage.py", *BACKFILL], cwd=PROJECT) as run:
                take_picture(folder / "profile", PROJECT / "docs" / "pictures" / "admin.png")
                run.terminate()


def take_picture(profile: Path, target: Path) -> None:
    """Sign in, look at the page for a while, and write what is seen."""
    import django  # noqa: PLC0415 - the database is known by now

    django.setup()
    from tests.fixtures import site  # noqa: PLC0415

    user = site.make_user("view", "pause", "resume", "retune")
    session = site.sign_in(user).cookies["sessionid"].value
    with site.serve_site() as address, site.open_browser(profile) as browser:
        browser.get(f"{address}/admin/login/")
        browser.add_cookie({"name": "sessionid", "value": session})
        site.resize_page(browser, (WIDTH, HEIGHT))
        browser.get(address + site.ONE)
        time.sleep(FOLLOW_SECONDS)  # the run goes on meanwhile, and the page has a rate to show
        browser.save_screenshot(str(target))


if __name__ == "__main__":
    main()
