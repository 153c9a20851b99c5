// Asks for a confirmation in a modal dialog. If the service refuses, the dialog stays open and shows the error.

import { element, setText } from "./dom.js";
import { inputOf } from "./field.js";

let made = 0;

/**
 * Ask the user to confirm an action, and call `submit` after the confirmation.
 *
 * @param {string} title
 * @param {string} says The consequences of the action.
 * @param {Array} fields See `inputOf`; fields with `isFurther` are collapsed at first.
 * @param {string} confirm The label of the button that confirms.
 * @param {string} decline The label of the button that cancels.
 * @param {boolean} isDangerous Whether the action removes something.
 * @param {(values: Object) => Promise} submit Does the action; if `submit` throws, the dialog stays and shows the error.
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
  // While the request runs, Escape must not close the dialog, because the result would be hidden.
  dialog.addEventListener("cancel", (event) => isBusy && event.preventDefault());
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
  // An accidental Enter must not confirm a dangerous action.
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
  // Open the details when a field is invalid, because the browser shows the error beside the field.
  whole.addEventListener("invalid", () => whole.setAttribute("open", ""), { capture: true });
  return whole;
}
