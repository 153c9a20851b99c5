// Asking before something is done: a modal dialog that stays open, with the reason, when the service refuses.

import { element, setText } from "./dom.js";

let made = 0;

/**
 * Ask, and have it done when the answer is yes.
 *
 * @param {string} title A question, or what will be done.
 * @param {string} says What it means.
 * @param {Array} fields See `inputOf`.
 * @param {string} confirm What the button says.
 * @param {boolean} isDangerous Whether it takes something away.
 * @param {(values: Object) => Promise} submit Does it; if it throws, the dialog says so and stays.
 */
export function ask({ title, says, fields = [], confirm, isDangerous = false, submit }) {
  made += 1;
  const prefix = `dialog-${made}`;
  const inputs = fields.map((field) => inputOf(field, `${prefix}-${field.name}`));
  const problem = element("p", { class: "problem", role: "alert", hidden: true });
  const cancel = element("button", { type: "button", onclick: () => dialog.close() }, "Cancel");
  const go = element("button", { class: isDangerous ? "danger solid" : "primary" }, confirm);
  const form = element(
    "form",
    { onsubmit: (event) => attempt(event) },
    element("h2", { id: `${prefix}-title` }, title),
    element("p", { id: `${prefix}-says` }, says),
    inputs.map((input) => input.element),
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

/**
 * Make one field: {name, label, hint, kind: "text" or "check", value, isRequired, pattern, mustBe, lengthMax}.
 *
 * `mustBe` is a text that has to be typed, letter for letter, before anything happens.
 */
function inputOf({ name, label, hint, kind = "text", value, isRequired, pattern, mustBe, lengthMax }, id) {
  const hintId = hint ? `${id}-hint` : null;
  const hinted = hint ? element("small", { class: "hint", id: hintId }, hint) : null;
  if (kind === "check") {
    const control = element("input", { type: "checkbox", id, name, "aria-describedby": hintId });
    control.checked = Boolean(value);
    const whole = element("div", { class: "field" }, element("label", { class: "check" }, control, label), hinted);
    return { name, control, element: whole, value: () => control.checked };
  }
  const control = element("input", {
    type: "text",
    id,
    name,
    pattern,
    required: isRequired || mustBe !== undefined,
    maxlength: lengthMax,
    title: pattern ? hint : null,
    autocomplete: "off",
    autocapitalize: "off",
    spellcheck: "false",
    "aria-describedby": hintId,
  });
  control.value = value ?? "";
  if (mustBe !== undefined) {
    const check = () => control.setCustomValidity(control.value === mustBe ? "" : `Type “${mustBe}” to confirm.`);
    control.addEventListener("input", check);
    check();
  }
  const whole = element("div", { class: "field" }, element("label", { for: id }, label), control, hinted);
  return { name, control, element: whole, value: () => control.value.trim() };
}
