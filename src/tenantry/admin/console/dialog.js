// Asking before something is done: a modal dialog that stays open, with the reason, when the service refuses.

import { element, setText } from "./dom.js";
import { inputOf } from "./field.js";

let made = 0;

/**
 * Ask, and have it done when the answer is yes.
 *
 * @param {string} title A question, or what will be done.
 * @param {string} says What it means.
 * @param {Array} fields See `inputOf`; those that are `isFurther` are folded away at first.
 * @param {string} confirm What the button says.
 * @param {string} decline What the other button says.
 * @param {boolean} isDangerous Whether it takes something away.
 * @param {(values: Object) => Promise} submit Does it; if it throws, the dialog says so and stays.
 */
export function ask({ title, says, fields = [], confirm, decline = "Cancel", isDangerous = false, submit }) {
  made += 1;
  const prefix = `dialog-${made}`;
  const inputs = fields.map((field) => inputOf(field, `${prefix}-${field.name}`));
  const problem = element("p", { class: "problem", role: "alert", hidden: true });
  const cancel = element("button", { type: "button", onclick: () => dialog.close() }, decline);
  const go = element("button", { class: isDangerous ? "danger solid" : "primary" }, confirm);
  const form = element(
    "form",
    { onsubmit: (event) => attempt(event) },
    element("h2", { id: `${prefix}-title` }, title),
    element("p", { id: `${prefix}-says` }, says),
    inputs.filter(({ isFurther }) => !isFurther).map((input) => input.element),
    further(inputs.filter(({ isFurther }) => isFurther)),
    problem,
    element("p", { class: "buttons" }, cancel, go),
  );
  const dialog = element(
    "dialog",
    { "aria-labelledby": `${prefix}-title`, "aria-describedby": `${prefix}-says` },
    form,
  );
  let isBusy = false;
  // Escape would hide whether the service took it.
  dialog.addEventListener("cancel", (event) => isBusy && event.preventDefault());
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
  // What takes something away is not what a stray Enter does.
  (inputs[0]?.control ?? (isDangerous ? cancel : go)).focus();

  async function attempt(event) {
    event.preventDefault();
    if (isBusy) return;
    setBusy(true);
    problem.hidden = true;
    try {
      await submit(Object.fromEntries(inputs.map((input) => [input.name, input.value()])));
      dialog.close();
    } catch (error) {
      setText(problem, error.message);
      problem.hidden = false;
    } finally {
      setBusy(false);
    }
  }

  function setBusy(busy) {
    isBusy = busy;
    go.disabled = busy;
    cancel.disabled = busy;
    form.setAttribute("aria-busy", busy);
    setText(go, busy ? "Working…" : confirm);
  }
}

function further(inputs) {
  if (inputs.length === 0) return null;
  const whole = element("details", {}, element("summary", {}, "More"), inputs.map((input) => input.element));
  // The browser tells of what is wrong beside the field, which has to be seen for that.
  whole.addEventListener("invalid", () => whole.setAttribute("open", ""), { capture: true });
  return whole;
}
