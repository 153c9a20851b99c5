// Starts, pauses, resumes and cancels fleet jobs.

import { newIdempotencyKey, path } from "./api.js";
import { labelOf } from "./actions.js";
import { ask } from "./dialog.js";

const KINDS = ["migrate", "check", "snapshot", "move"];
const REASON = { name: "reason", label: "Reason (optional)", lengthMax: 1_000 };
const ALLOWED = { pattern: "[0-9]{1,7}|[1-9][0-9]?%", hint: "A number, or a percentage such as 2%. Empty allows any number." };

/** The actions on a job. `from` lists the states that offer the action; a test compares the states with the core's table. */
export const JOB_ACTIONS = [
  {
    name: "pause",
    from: ["pending", "running"],
    says: "The job starts no further tenant until the job is resumed.",
    fields: [REASON],
  },
  {
    name: "resume",
    from: ["paused", "stopped"],
    says: "The job continues with the unfinished tenants. After a stop, earlier failures no longer count against the limit.",
    fields: [
      {
        ...ALLOWED,
        name: "failures_max",
        label: "Failures allowed from now on (optional)",
        hint: "A number, or a percentage such as 2%. Empty keeps the old limit.",
      },
    ],
  },
  {
    name: "cancel",
    from: ["pending", "running", "paused", "stopped"],
    says: "The job ends, and starts no further tenant. Finished work stays.",
    fields: [REASON],
    confirm: "Cancel the job",
    isDangerous: true,
  },
];

// The fields of the body of `POST /v1/jobs`.
const fieldsOf = (app) => [
  {
    name: "kind",
    label: "Kind",
    isRequired: true,
    lengthMax: 40,
    options: KINDS,
    hint: "migrate, check, snapshot, move, or a function that the service has registered.",
  },
  {
    name: "states",
    label: "Tenants in these states",
    kind: "choices",
    options: app.statesThatAllow("copy"),
    value: app.statesThatAllow("migrate"),
    hint: "Only the kinds check, snapshot and move work on tenants that serve no calls.",
  },
  {
    name: "id_prefix",
    label: "Only ids that begin with (optional)",
    pattern: "[a-z0-9\\-]{1,48}",
    hint: "The characters a–z, 0–9 and “-”.",
  },
  {
    name: "tenant_ids",
    label: "Only these tenants (optional)",
    hint: "Tenant ids, separated by blanks or commas.",
    isFurther: true,
  },
  {
    name: "below",
    label: "Only tenants below these schema versions (optional)",
    pattern: " *[a-z][a-z0-9_]* +[0-9]{1,9}( *, *[a-z][a-z0-9_]* +[0-9]{1,9})* *",
    hint: "Such as company 2, invoices 1.",
    isFurther: true,
  },
  {
    name: "canary",
    label: "First wave (optional)",
    pattern: "[1-9][0-9]{0,6}|[0-9]{1,2}(\\.[0-9]{1,2})?%",
    hint: "The number of tenants in the first wave, or a percentage such as 5%.",
    isFurther: true,
  },
  { ...ALLOWED, name: "canary_failures_max", label: "Failures allowed in the first wave", value: "0", isFurther: true },
  { ...ALLOWED, name: "failures_max", label: "Failures allowed", value: "10", isFurther: true },
  {
    name: "concurrency",
    label: "Concurrent tenants",
    value: "8",
    isRequired: true,
    pattern: "[1-9][0-9]{0,3}",
    hint: "From 1 to 1024.",
    isFurther: true,
  },
  { name: "snapshot_before", label: "Take a snapshot of each tenant before the work", kind: "check", isFurther: true },
  { name: "return_on_failure", label: "Restore the snapshot if the work on a tenant fails", kind: "check", isFurther: true },
  { name: "arguments", label: "Arguments (optional)", kind: "lines", hint: 'A JSON object without secrets. The kind move needs the back end: {"to": "east"}.', isFurther: true },
];

/** Ask for a new job's options, and start the job. */
export function start(app, onDone) {
  const once = newIdempotencyKey();
  ask({
    title: "Start a fleet job",
    says: "The job does the same work on every chosen tenant. The tenants are chosen now, and the job begins immediately.",
    fields: fieldsOf(app),
    confirm: "Start",
    submit: async (values) => {
      const job = await app.api.send("POST", "v1/jobs", { body: jobOf(values), once });
      onDone(job);
    },
  });
}

/** Ask the user to confirm an action on a job, and do the action. */
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

/** Convert the dialog's values to the API's body. */
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
