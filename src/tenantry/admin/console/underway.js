// Keeps the running operations of this tab, so that a reload of the page does not lose them.
//
// Only the operations' ids, titles and start times by the browser's clock are kept, until the user signs out. The service still
// checks whether the current key may see an operation.

const KEPT = "tenantry.operations";

/** Return [{id, title, at}], oldest first; `at` is in milliseconds. */
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
