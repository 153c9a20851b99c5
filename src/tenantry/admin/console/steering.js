// Starting fleet jobs, and steering them until they have ended.

import { newIdempotencyKey, path } from "./api.js";
import { labelOf } from "./actions.js";
import { ask } from "./dialog.js";

const KINDS = ["migrate", "check", "snapshot"];
const REASON = { name: "reason", label: "Reason (optional)", lengthMax: 1_000 };
const ALLOWED = { pattern: "[0-9]{1,7}|[1-9][0-9]?%", hint: "A number, or a share such as 2%. Empty: any number." };

/** What a job can be told. `from` are the states in which each is offered: rows of the core's table, as a test compares. */
export const JOB_ACTIONS = [
  {
    name: "pause",
    from: ["pending", "running"],
    says: "No further tenant is begun until it is resumed.",
    fields: [REASON],
  },
  {
    name: "resume",
    from: ["paused", "stopped"],
    says: "It continues where it stopped. Failures so far are accepted.",
    fields: [
      {
        ...ALLOWED,
        name: "failures_max",
        label: "Failures allowed from now on (optional)",
        hint: "A number, or a share such as 2%. Empty: as many as before.",
      },
    ],
  },
  {
    name: "cancel",
    from: ["pending", "running", "paused", "stopped"],
    says: "It ends, and no further tenant is begun. Finished work stays.",
    fields: [REASON],
    confirm: "Cancel the job",
    isDangerous: true,
  },
];

// What `POST /v1/jobs` takes.
const fieldsOf = (app) => [
  {
    name: "kind",
    label: "Kind",
    isRequired: true,
    lengthMax: 40,
    options: KINDS,
    hint: "migrate, check, snapshot, or a function that the service has registered.",
  },
  {
    name: "states",
    label: "Tenants in these states",
    kind: "choices",
    options: app.statesThatAllow("copy"),
    value: app.statesThatAllow("migrate"),
    hint: "Only check and snapshot work on tenants that serve no calls.",
  },
  {
    name: "id_prefix",
    label: "Whose ids begin with (optional)",
    pattern: "[a-z0-9\\-]{1,48}",
    hint: "Of a–z, 0–9 and “-”.",
  },
  {
    name: "tenant_ids",
    label: "Only these tenants (optional)",
    hint: "Their ids, separated by blanks or commas.",
    isFurther: true,
  },
  {
    name: "below",
    label: "Only below these schema versions (optional)",
    pattern: " *[a-z][a-z0-9_]* +[0-9]{1,9}( *, *[a-z][a-z0-9_]* +[0-9]{1,9})* *",
    hint: "Such as company 2, invoices 1.",
    isFurther: true,
  },
  {
    name: "canary",
    label: "First wave (optional)",
    pattern: "[1-9][0-9]{0,6}|[0-9]{1,2}(\\.[0-9]{1,2})?%",
    hint: "How many go first: a number, or a share such as 5%.",
    isFurther: true,
  },
  { ...ALLOWED, name: "canary_failures_max", label: "Failures allowed in the first wave", value: "0", isFurther: true },
  { ...ALLOWED, name: "failures_max", label: "Failures allowed", value: "10", isFurther: true },
  {
    name: "concurrency",
    label: "Tenants at once",
    value: "8",
    isRequired: true,
    pattern: "[1-9][0-9]{0,3}",
    hint: "From 1 to 1024.",
    isFurther: true,
  },
  { name: "snapshot_before", label: "Take a snapshot of each tenant before", kind: "check", isFurther: true },
  { name: "return_on_failure", label: "Restore that snapshot if the work on a tenant fails", kind: "check", isFurther: true },
  { name: "arguments", label: "Arguments (optional)", kind: "lines", hint: "A JSON object; no secrets.", isFurther: true },
];

/** Ask for a new job, and start it. */
export function start(app, onDone) {
  const once = newIdempotencyKey();
  ask({
    title: "Start a fleet job",
    says: "The same work on every chosen tenant. Tenants are chosen now, and the job begins immediately.",
    fields: fieldsOf(app),
    confirm: "Start",
    submit: async (values) => {
      const job = await app.api.send("POST", "v1/jobs", { body: jobOf(values), once });
      // Its page tells of it from now on.
      onDone(job);
    },
  });
}

/** Ask whether a job is to be steered, and do it. */
export function steer(app, action, job, onDone) {
  const once = newIdempotencyKey();
  const title = `${labelOf(action)}: ${job.kind}, ${job.job_id}`;
  ask({
    title,
    says: action.says,
    fields: action.fields,
    confirm: action.confirm ?? labelOf(action),
    decline: "Back",
    isDangerous: action.isDangerous,
    submit: async ({ reason, failures_max: allowed }) => {
      const body = { ...(reason && { reason }), ...(allowed && { failures_max: allowedOf(allowed) }) };
      await app.api.send("POST", path`v1/jobs/${job.job_id}/${action.name}`, { body, once });
      app.activity.done(title);
      onDone();
    },
  });
}

/** What was typed, as the API takes it. */
export function jobOf(values) {
  const { tenant_ids: ids, below, canary, arguments: given } = values;
  const { kind, states, snapshot_before, return_on_failure } = values;
  return {
    kind,
    states,
    snapshot_before,
    return_on_failure,
    concurrency: Number(values.concurrency),
    failures_max: allowedOf(values.failures_max),
    canary_failures_max: allowedOf(values.canary_failures_max),
    ...(values.id_prefix && { id_prefix: values.id_prefix }),
    ...(ids && { tenant_ids: ids.split(/[\s,]+/).filter(Boolean) }),
    ...(below && { below: versionsOf(below) }),
    ...(canary && { canary: canary.endsWith("%") ? canary : Number(canary) }),
    ...(given && { arguments: argumentsOf(given) }),
  };
}

function allowedOf(text) {
  if (text === "") return null;
  return text.endsWith("%") ? Number(text.slice(0, -1)) / 100 : Number(text);
}

function versionsOf(text) {
  const pairs = text.split(",").map((pair) => pair.trim().split(/\s+/));
  return Object.fromEntries(pairs.map(([name, version]) => [name, Number(version)]));
}

function argumentsOf(text) {
  try {
    return JSON.parse(text);
  } catch {
    throw new Error("The arguments are not JSON.");
  }
}
