// Which operations were begun from this tab and have not ended: a reload of the page does not lose sight of them.
//
// Only their ids, titles and beginnings are kept, by this browser's clock; whoever signs in is told what the service tells
// that key, and signing out forgets them.

const KEPT = "tenantry.operations";

/** [{id, title, at}], the oldest first; `at` in milliseconds. */
export function underway() {
  try {
    return JSON.parse(sessionStorage.getItem(KEPT)) ?? [];
  } catch {
    return [];
  }
}

export function remember(operation) {
  keep([...others(operation.id), operation]);
}

export function forget(id) {
  keep(others(id));
}

export function forgetAll() {
  keep([]);
}

function others(id) {
  return underway().filter((one) => one.id !== id);
}

function keep(operations) {
  if (operations.length === 0) sessionStorage.removeItem(KEPT);
  else sessionStorage.setItem(KEPT, JSON.stringify(operations));
}
