"""What the console tells of answers: what a key may not do, refusals, long work, and a service that is not there."""

from pathlib import Path

import httpx
import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from browsers import Browser, RunningService
from tenants import database_path, held_writer

pytestmark = pytest.mark.unmeasured


def test_a_key_offers_what_it_is_good_for(service: RunningService, browser: Browser, api: httpx.Client):
    """What the key's scope does not allow cannot be pressed, and it says why; a key for some tenants sees only those."""
    for name in ("acme", "globex"):
        api.post("/v1/tenants", json={"id": name})

    def usable() -> set[str]:
        buttons = browser.driver.find_elements(By.CSS_SELECTOR, "#view [aria-label=Actions] button")
        return {button.text for button in buttons if button.is_enabled()}

    expected = {
        "read": set(),
        "operate": {"Snapshot", "Suspend", "Archive", "Clone", "Settings", "Quarantine"},
        "acme": {
            *("Snapshot", "Suspend", "Archive", "Clone", "Settings", "Quarantine"),
            *("Rename", "Delete"),
        },
    }
    for key, may in expected.items():
        browser.sign_in(service.url, service.keys[key])
        browser.open("#/tenants/acme", "Stable key")
        assert usable() == may
        assert browser.driver.find_element(By.CSS_SELECTOR, "#view .hint").is_displayed() is (key != "acme")
        if key != "acme":
            browser.click("Sign out")
    browser.open("#/tenants", "acme")
    assert "globex" not in browser.text()
    browser.open("#/overview", "This key is limited to some tenants")
    browser.open("#/audit", "choose the tenant to show")
    browser.find("#of").send_keys("acme", Keys.ENTER)
    browser.see("create", "table")
    assert browser.complaints() == []


def test_a_refusal_is_told_where_it_was_asked(service: RunningService, browser: Browser, api: httpx.Client):
    """What the service refuses stays in the dialog with the reason; a key that is revoked ends the session; a wrong one begins none."""
    api.post("/v1/tenants", json={"id": "acme"})
    browser.driver.get(f"{service.url}/console/")
    browser.find("#key").send_keys("tnt_wrong")
    browser.click("Sign in")
    browser.see("this key is unknown, expired or revoked", "#sign-in-problem")
    browser.sign_in(service.url, service.keys["operate"])
    browser.open("#/tenants", "acme")
    browser.confirm("Create tenant", "Create", id="acme")
    browser.see("tenant 'acme' exists already", "dialog .problem")
    field = browser.find("dialog [name=id]")
    field.clear()
    field.send_keys("globex")
    browser.click("Create", "//dialog")
    browser.see("globex", "#view h1")

    browser.confirm("Settings", "Save", display_name=" Corporation")
    browser.see("globex Corporation", ".display-name")
    browser.click("Settings")
    api.patch("/v1/tenants/globex", json={"display_name": "Somebody else's"})
    browser.click("Save", "//dialog")
    browser.see("read the tenant again", "dialog .problem")
    browser.click("Cancel", "//dialog")
    browser.see("Somebody else's", ".display-name")

    browser.open("#/tenants/initech", "Tenant initech does not exist.")
    browser.tab_to("Create this tenant")
    for _ in range(3):
        browser.wait(lambda: any("/initech" in url for url in browser.requests()), "one more look")
    assert browser.focused() == "Create this tenant", "it is looked for again, and the focus stays"

    identity = next(key for key in api.get("/v1/keys").json()["items"] if key["scopes"] == ["operate"])
    api.delete(f"/v1/keys/{identity['id']}")
    browser.see("The key is no longer valid", "#sign-in-problem")
    assert "globex" not in browser.text()


def test_long_work_shows_its_steps_and_its_end(
    service: RunningService, browser: Browser, api: httpx.Client, data_dir: Path
):
    """An operation's steps are seen as they happen, also after a reload; what succeeds leads on; if it fails, why."""
    api.post("/v1/tenants", json={"id": "acme"})
    api.post("/v1/tenants/acme/suspend")
    browser.driver.get(f"{service.url}/console/")
    browser.find("#key").send_keys(service.keys["admin"])
    browser.click_on("#keep")
    browser.click("Sign in")
    browser.see("Overview", "#view h1")
    browser.open("#/tenants/acme", "Stable key")
    # Compacting waits for whoever has the file.
    with held_writer(database_path(data_dir, "acme")):
        browser.confirm("Archive")
        browser.see("Begun, then closed. Running for ", "#activity")
        assert browser.find("#activity progress").is_displayed()
        browser.driver.refresh()
        browser.see("Archive: acme", "#activity")
        browser.see("Begun, then closed. Running for ", "#activity")
    browser.see("Done in ", "#activity")
    browser.see("archived", ".title")
    browser.click("Dismiss")
    browser.gone("#activity li")
    browser.confirm("Snapshot")
    browser.learn("Done in ")
    next((data_dir / "snapshots").rglob("*.gz")).write_bytes(b"")
    browser.confirm("Restore", typed="acme")
    browser.find("#activity [data-state=failed]")
    browser.see(
        "is corrupt: the stored object was altered; restore an older snapshot", "#activity .entry-detail"
    )
    assert "Undo restore" not in browser.text(), "nothing was restored"
    browser.driver.refresh()
    browser.see("Stable key", "#view")
    browser.gone("#activity li")
    browser.click("Sign out")
    assert browser.script("return sessionStorage.length") == 0
    assert browser.complaints() == []


def test_a_purge_leads_on_from_its_page_only(service: RunningService, browser: Browser, api: httpx.Client):
    """That it has ended may be learned after a look that found nobody: the page leads on; who left it stays elsewhere."""
    for tenant_id in ("acme", "globex"):
        api.post("/v1/tenants", json={"id": tenant_id})
        api.delete(f"/v1/tenants/{tenant_id}")
    browser.sign_in(service.url, service.keys["admin"])
    browser.open("#/tenants/acme", "Stable key")
    with browser.cut_off("*/v1/operations/*"):
        browser.confirm("Purge", "Purge permanently", typed="acme")
        browser.see("Tenant acme does not exist.", "#view")
    browser.see("globex", "#view table")
    browser.learn("Done in ")

    browser.open("#/tenants/globex", "Stable key")
    with browser.cut_off("*/v1/operations/*"):
        browser.confirm("Purge", "Purge permanently", typed="globex")
        browser.see("Tenant globex does not exist.", "#view")
        browser.open("#/audit", "purge")
    browser.see("Done in ", "#activity")
    assert browser.text("#view h1") == "Audit"


def test_it_says_since_when_it_knows_nothing(service: RunningService, browser: Browser, api: httpx.Client):
    """When the service is gone, what is shown stays, marked with the time from which on it is old."""
    api.post("/v1/tenants", json={"id": "acme"})
    browser.sign_in(service.url, service.keys["read"])
    browser.open("#/tenants", "acme")
    browser.see("Live", "#freshness")
    service.stop()
    browser.see("Stale since ", "#freshness")
    browser.see("The service cannot be reached.", "#problem")
    assert "acme" in browser.text("#view")


def test_a_key_is_kept_only_if_its_user_wants_that(service: RunningService, browser: Browser):
    """The page forgets the key with its window, unless it was told to keep it for the tab; signing out forgets it at once."""
    browser.sign_in(service.url, service.keys["read"])
    browser.driver.refresh()
    browser.find("#key").send_keys(service.keys["read"])
    browser.click_on("#keep")
    browser.click("Sign in")
    browser.see("Overview", "#view h1")
    browser.driver.refresh()
    browser.see("Overview", "#view h1")
    browser.click("Sign out")
    browser.driver.refresh()
    browser.find("#key")
    assert service.keys["read"] not in browser.script(
        "return document.documentElement.outerHTML + JSON.stringify({...sessionStorage, ...localStorage})"
    )


def test_a_damaged_snapshot_is_named(
    service: RunningService, browser: Browser, api: httpx.Client, data_dir: Path
):
    """Beside the sound ones, which it hides no more than it is hidden by them."""
    api.post("/v1/tenants", json={"id": "acme"})
    ids = [api.post("/v1/tenants/acme/snapshots").json()["id"] for _ in range(2)]
    for operation in ids:
        browser.wait(
            lambda operation=operation: api.get(f"/v1/operations/{operation}").json()["state"] != "running",
            "the end",
        )
    kept = [snapshot["id"] for snapshot in api.get("/v1/tenants/acme/snapshots").json()["items"]]
    manifest = next((data_dir / "snapshots").rglob(f"{kept[0]}.json"))
    manifest.write_bytes(manifest.read_bytes()[:-1])
    browser.sign_in(service.url, service.keys["read"])
    browser.open("#/tenants/acme", f"Delete these damaged snapshots: {kept[0]}.")
    assert len(browser.driver.find_elements(By.CSS_SELECTOR, "table[aria-label=Snapshots] tbody tr")) == 1
