"""Take the pictures of the console that are in ``docs/console``: ``python tests/admin/console/pictures.py``, in three minutes.

It needs what the tests need. Run it when the console has changed, and look at what it took.
"""

import sys
import tempfile
import time
from pathlib import Path

import httpx

PROJECT = Path(__file__).parents[3]
sys.path.insert(0, str(PROJECT / "tests" / "support"))

from browsers import Browser, open_browser, serving  # noqa: E402  # found by the line above

PICTURES = PROJECT / "docs" / "console"
# So long the charts gather what they show.
GATHERING_SECONDS = 150
TENANTS = {
    "acme": "Acme Ltd.",
    "aperture": "Aperture Science",
    "cyberdyne": "Cyberdyne Systems",
    "globex": "Globex Corporation",
    "hooli": "Hooli",
    "initech": "Initech",
    "soylent": "Soylent Green",
    "stark": "Stark Industries",
    "tyrell": "Tyrell Corporation",
    "umbrella": "Umbrella",
    "wayne": "Wayne Enterprises",
    "weyland": "Weyland-Yutani",
}
CALLS_AT_ONCE = {"acme": 12, "globex": 8, "stark": 6, **dict.fromkeys(("tyrell", "wayne"), 1)}


def start_jobs(api: httpx.Client, directory: Path) -> str:
    """Start a job that ends, one that is half done, and one that some tenants fail in; return the id of the last."""
    (directory / "until").touch()
    failing = {
        "until": str(directory / "until"),
        "failing": ["globex", "wayne"],
        "says": "the export is empty",
    }
    held = {"until": str(directory / "never")}
    jobs = [
        {"kind": "check", "states": ["active", "suspended"]},
        {"kind": "hold", "arguments": held, "canary": "10%"},
        {"kind": "hold", "arguments": failing, "concurrency": 2},
    ]
    started = [api.post("/v1/jobs", json=job).raise_for_status().json()["id"] for job in jobs]
    api.post(f"/v1/jobs/{started[1]}/pause", json={"reason": "the disks are busy"}).raise_for_status()
    return str(started[-1])


def take_pictures(url: str, key: str, browser: Browser, job_id: str) -> None:
    """Look at the console by day, by night and on a telephone."""
    browser.show(1120, 900)
    browser.driver.execute_cdp_cmd("Emulation.setScrollbarsHidden", {"hidden": True})
    browser.sign_in(url, key)
    time.sleep(GATHERING_SECONDS)
    for name, width, is_dark, page, text in (
        ("overview-light", 1120, False, "#/overview", "acme"),
        ("overview-dark", 1120, True, "#/overview", "acme"),
        ("tenants-light", 1120, False, "#/tenants", "weyland"),
        ("tenant-dark", 1120, True, "#/tenants/acme", "manual"),
        ("fleet-light", 1120, False, "#/fleet", "9 of 9"),
        ("job-dark", 1120, True, f"#/fleet/{job_id}", "the export is empty"),
        ("fleet-360", 360, False, "#/fleet", "9 of 9"),
        ("overview-360", 360, False, "#/overview", "acme"),
        ("tenants-360", 360, True, "#/tenants", "weyland"),
    ):
        browser.show(width, 900, is_dark=is_dark)
        browser.open(page, text)
        time.sleep(9 if page == "#/tenants/acme" else 5)  # a few looks, for what is shown per second
        browser.driver.save_screenshot(str(PICTURES / f"{name}.png"))


def main() -> None:
    """Serve some tenants, call them, and take the pictures."""
    PICTURES.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as directory,
        serving(Path(directory) / "data", CALLS_AT_ONCE) as service,
    ):
        headers = {"Authorization": f"Bearer {service.keys['admin']}"}
        api = httpx.Client(base_url=service.url, headers=headers, trust_env=False, timeout=60)
        for tenant_id, name in TENANTS.items():
            api.post("/v1/tenants", json={"id": tenant_id, "display_name": name}).raise_for_status()
        api.post("/v1/tenants/acme/snapshots").raise_for_status()
        api.post("/v1/tenants/initech/suspend", json={"reason": "unpaid since May"}).raise_for_status()
        api.post("/v1/tenants/cyberdyne/archive").raise_for_status()
        api.post("/v1/tenants/soylent/quarantine", json={"reason": "under investigation"}).raise_for_status()
        api.delete("/v1/tenants/umbrella").raise_for_status()
        job_id = start_jobs(api, Path(directory))
        with open_browser(Path(directory) / "profile") as browser:
            take_pictures(service.url, service.keys["admin"], browser, job_id)
        (Path(directory) / "never").touch()
    for picture in sorted(PICTURES.glob("*.png")):
        print(f"{picture.relative_to(PROJECT)}  {picture.stat().st_size // 1024} KiB")  # noqa: T201


if __name__ == "__main__":
    main()
