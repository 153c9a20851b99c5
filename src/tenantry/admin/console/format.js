// Formats numbers, sizes and times for people, always with units.

const WHOLE = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const TENTHS = new Intl.NumberFormat("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 });
const MOMENT = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "medium" });
const TIME = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium" });
const BYTE_UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];

export const NOTHING = "–";

/** 1234 → "1,234" */
export function count(value) {
  return isThere(value) ? WHOLE.format(value) : NOTHING;
}

/** 3.14159 → "3.1"; numbers from 100 on have no fraction. */
export function decimal(value) {
  if (!isThere(value)) return NOTHING;
  return value >= 100 || value === 0 ? WHOLE.format(value) : TENTHS.format(value);
}

/** 12.3 → "12.3/s" */
export function rate(value) {
  return isThere(value) ? `${decimal(value)}/s` : NOTHING;
}

/** 4096 → "4.0 KiB" */
export function bytes(value) {
  if (!isThere(value)) return NOTHING;
  let unit = 0;
  while (value >= 1024 && unit < BYTE_UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? WHOLE.format(value) : decimal(value)} ${BYTE_UNITS[unit]}`;
}

/** 0.00021 → "210 µs" */
export function seconds(value) {
  if (!isThere(value)) return NOTHING;
  if (value === 0) return "0 ms";
  if (value < 0.001) return `${decimal(value * 1e6)} µs`;
  if (value < 1) return `${decimal(value * 1e3)} ms`;
  return `${decimal(value)} s`;
}

/** 312 → "5 min 12 s" */
export function duration(value) {
  if (!isThere(value)) return NOTHING;
  const whole = Math.round(value);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${WHOLE.format(Math.floor(whole / 3600))} h ${Math.floor((whole % 3600) / 60)} min`;
}

/** Format a timestamp of the API in the user's time zone. */
export function moment(iso) {
  return iso ? MOMENT.format(new Date(iso)) : NOTHING;
}

/** Milliseconds of the epoch → "17:21:26" */
export function time(at) {
  return TIME.format(new Date(at));
}

/** "undo_restore" → "undo restore" */
export function words(name) {
  return name.replaceAll("_", " ");
}

/** { company: 2 } → "company 2" */
export function versions(byName) {
  const each = Object.entries(byName).map(([name, version]) => `${name} ${version}`);
  return each.length > 0 ? each.join(", ") : NOTHING;
}

/** "suspend" → "Suspend" */
export function capital(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

function isThere(value) {
  return typeof value === "number" && Number.isFinite(value);
}
