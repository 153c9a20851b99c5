// The input fields of a dialog, each with its label, hint and value.

import { element } from "./dom.js";

/**
 * Create a field from {name, label, hint, kind, value, isRequired, pattern, mustBe, lengthMax, options}.
 *
 * `kind` is "text", "lines" (a text of several lines), "check" (a checkbox) or "choices" (a checkbox for each of `options`).
 * For a text, `options` are suggestions, and `mustBe` is the exact text that confirms the dialog.
 */
export function inputOf(field, id) {
  const hint = field.hint ? element("small", { class: "hint", id: `${id}-hint` }, field.hint) : null;
  const make = { check: checkOf, choices: choicesOf }[field.kind] ?? textOf;
  return { name: field.name, isFurther: Boolean(field.isFurther), ...make(field, id, hint) };
}

function checkOf({ name, label, value }, id, hint) {
  const control = element("input", { type: "checkbox", id, name, "aria-describedby": hint?.id });
  control.checked = Boolean(value);
  const whole = element("div", { class: "field" }, element("label", { class: "check" }, control, label), hint);
  return { control, element: whole, value: () => control.checked };
}

function choicesOf({ name, label, value, options }, id, hint) {
  const controls = options.map((one) => {
    const control = element("input", { type: "checkbox", name, value: one });
    control.checked = value.includes(one);
    return control;
  });
  const labels = controls.map((control) => element("label", { class: "check" }, control, control.value));
  const check = () => {
    const isNone = controls.every((control) => !control.checked);
    controls[0].setCustomValidity(isNone ? "Choose at least one." : "");
  };
  const attributes = { class: "field", id, "aria-describedby": hint?.id, onchange: check };
  const whole = element("fieldset", attributes, element("legend", {}, label), labels, hint);
  const chosen = () => controls.filter((control) => control.checked).map((control) => control.value);
  return { control: controls[0], element: whole, value: chosen };
}

function textOf({ name, label, hint: says, kind, value, isRequired, pattern, mustBe, lengthMax, options }, id, hint) {
  const isLines = kind === "lines";
  const control = element(isLines ? "textarea" : "input", {
    type: isLines ? null : "text",
    rows: isLines ? 3 : null,
    id,
    name,
    pattern,
    required: isRequired || mustBe !== undefined,
    maxlength: lengthMax,
    title: pattern ? says : null,
    list: options ? `${id}-options` : null,
    autocomplete: "off",
    autocapitalize: "off",
    spellcheck: "false",
    "aria-describedby": hint?.id,
  });
  control.value = value ?? "";
  if (mustBe !== undefined) {
    const check = () => control.setCustomValidity(control.value === mustBe ? "" : `Type “${mustBe}” to confirm.`);
    control.addEventListener("input", check);
    check();
  }
  const suggested = options?.map((one) => element("option", { value: one }));
  const list = options ? element("datalist", { id: `${id}-options` }, suggested) : null;
  const whole = element("div", { class: "field" }, element("label", { for: id }, label), control, list, hint);
  return { control, element: whole, value: () => control.value.trim() };
}
