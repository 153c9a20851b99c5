"""The console's pages of fleet jobs, in a real browser."""

import json
import re
from pathlib import Path

import httpx
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from browsers import Browser, RunningService


def test_a_fleet_job_is_started_watched_and_steered_with_the_keyboard(
    service: RunningService, browser: Browser, api: httpx.Client, tmp_path: Path
):
    """A job is started, seen to go on, paused, resumed and seen to end; who failed is told with the error, and is a link."""
    for name in ("acme", "globex", "initech"):
        api.post("/v1/tenants", json={"id": name})
    browser.sign_in(service.url, service.keys["admin"])
    browser.tab_to("Fleet")
    browser.press(Keys.ENTER)
    browser.see("There are no jobs yet.", "#view")
    browser.tab_to("Start job")
    browser.press(Keys.ENTER)
    browser.find("dialog")
    browser.press("hold")
    browser.tab_to("More")
    browser.press(Keys.ENTER)
    browser.tab_to("Concurrent tenants")
    browser.press(Keys.END, Keys.BACKSPACE, "1")
    browser.tab_to("Arguments (optional)")
    until = tmp_path / "until"
    browser.press(json.dumps({"until": str(until), "failing": ["globex"], "says": "no luck"}))
    browser.tab_to("Start")
    browser.press(Keys.ENTER)
    browser.see("running", ".title")
    browser.see("0 of 3", ".bar")

    browser.tab_to("Pause")
    browser.press(Keys.ENTER)
    browser.find("dialog")
    browser.press("the disks are busy", Keys.ENTER)
    browser.see("paused", ".title")
    browser.see("Reason: the disks are busy", ".notice")
    until.touch()
    browser.see("1 of 3", ".bar")
    browser.wait(lambda: browser.focused() != "", "the focus")
    browser.tab_to("Resume")
    browser.press(Keys.ENTER)
    browser.find("dialog")
    browser.press(Keys.ENTER)
    browser.see("done", ".title")
    browser.see("3 of 3", ".bar")
    browser.see("no luck", "table[aria-label=Results]")
    assert "acme" not in browser.text("table[aria-label=Results]")
    browser.tab_to("globex")
    browser.press(Keys.ENTER)
    browser.see("Stable key", "#view")
    assert browser.text("#view h1") == "globex"
    browser.open("#/fleet", "3 of 3")
    browser.wait(lambda: re.search(r"done\n?.*\n?3 of 3\n?.*2 1 0", browser.text("tbody")), "the counts")
    assert browser.complaints() == []


def test_who_may_only_look_is_offered_no_job_to_start_or_to_steer(
    service: RunningService, browser: Browser, api: httpx.Client, tmp_path: Path
):
    """Jobs are seen with a key that may read, steered with one that may do everything, and no matter of one tenant's key."""
    api.post("/v1/tenants", json={"id": "acme"})
    until = tmp_path / "until"
    started = api.post("/v1/jobs", json={"kind": "hold", "arguments": {"until": str(until)}}).json()
    browser.sign_in(service.url, service.keys["read"])
    browser.open("#/fleet", "0 of 1")
    browser.see("needs a key with the scope admin", "#view")
    browser.open(f"#/fleet/{started['id']}", "Failures allowed")
    browser.see("needs a key with the scope admin", "#view")
    buttons = browser.driver.find_elements(By.CSS_SELECTOR, "#view button")
    assert [button.text for button in buttons if button.is_displayed()] == []
    browser.open("#/fleet/none", "Job none does not exist.")
    browser.click("Sign out")

    browser.sign_in(service.url, service.keys["admin"])
    browser.open("#/fleet?state=running", "0 of 1")
    browser.click_on("tbody a")
    browser.confirm("Cancel", "Cancel the job", reason="not today")
    browser.see("cancelled", ".title")
    browser.see("not today", ".notice")
    browser.gone("#view [aria-label=Actions] button")
    until.touch()
    browser.open("#/fleet?state=running", "No job is running.")
    browser.click("Sign out")

    browser.sign_in(service.url, service.keys["acme"])
    assert "Fleet" not in browser.text("nav")
    browser.open("#/fleet", "This key is limited to some tenants")
    # The page asks again until it is left, however long that takes.
    assert len(set(browser.complaints())) == 1, "of the job that is not there"
