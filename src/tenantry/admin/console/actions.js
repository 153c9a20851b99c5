// The actions on a tenant, each with its scope, state, dialog and request.

import { newIdempotencyKey, path } from "./api.js";
import { ask } from "./dialog.js";
import { moment } from "./format.js";

const ID_PATTERN = "[a-z]([a-z0-9\\-]{0,46}[a-z0-9])?";
const ID_HINT = "1 to 48 of the characters a–z, 0–9 and “-”, beginning with a letter, not ending with “-”.";
const NAME_LENGTH_MAX = 200;
const REASON_LENGTH_MAX = 1_000;

const REASON = { name: "reason", label: "Reason (optional)", lengthMax: REASON_LENGTH_MAX };
const NEW_ID = { name: "new_id", label: "New id", isRequired: true, pattern: ID_PATTERN, hint: ID_HINT };
const NAME = { name: "display_name", label: "Display name (optional)", lengthMax: NAME_LENGTH_MAX };
const BACKEND_HINT = "Where the new tenant's database is. Without a choice, it is where the service's settings say.";
const BACKEND_PATTERN = "[a-z][a-z0-9_]*";
const typed = (id) => ({ name: "typed", label: `Type ${id} to confirm`, mustBe: id });

/**
 * The actions of a tenant's page. An action is offered if the tenant's `allows` has the action's `needs`, or its name without
 * `needs`. The API computes `allows` from `lifecycle.STATES` and `lifecycle.TRANSITIONS`.
 */
export const ACTIONS = [
  {
    name: "snapshot",
    scope: "operate",
    needs: "copy",
    says: "The tenant keeps serving calls. The snapshot contains all acknowledged writes.",
    at: ({ id }) => path`v1/tenants/${id}/snapshots`,
  },
  {
    name: "suspend",
    scope: "operate",
    says: "The tenant's calls are refused until the tenant is resumed. The tenant's data is kept.",
    fields: () => [REASON],
  },
  { name: "resume", scope: "operate", says: "The tenant serves calls again." },
  {
    name: "archive",
    scope: "operate",
    says: "The tenant's calls are refused, and its database is compacted into one file.",
    fields: () => [REASON],
  },
  { name: "unarchive", scope: "operate", says: "The tenant serves calls again." },
  {
    name: "repair",
    scope: "operate",
    says: "The tenant's database is checked and, if possible, repaired. Then the tenant serves calls again.",
  },
  { name: "undelete", scope: "operate", says: "The tenant returns to its state before the deletion." },
  {
    name: "clone",
    scope: "operate",
    needs: "copy",
    says: "A new tenant is created with this tenant's current data.",
    fields: (_, app) => [NEW_ID, NAME, ...backendOf(app)],
    confirm: "Clone",
  },
  {
    name: "settings",
    label: "Settings",
    scope: "operate",
    needs: "change",
    says: "Changes take effect immediately.",
    fields: (tenant) => [
      { ...NAME, label: "Display name", isRequired: true, value: tenant.display_name },
      {
        name: "deletion_protected",
        label: "Protected from deletion",
        kind: "check",
        value: tenant.deletion_protected,
      },
    ],
    confirm: "Save",
    method: "PATCH",
    at: ({ id }) => path`v1/tenants/${id}`,
    // If-Match prevents overwriting another user's change that was made while the dialog was open.
    ifMatch: (tenant) => `"${tenant.revision}"`,
  },
  {
    name: "rename",
    scope: "admin",
    needs: "change",
    says: "The tenant's data and snapshots stay. From then on calls with the old id fail.",
    fields: () => [NEW_ID],
  },
  {
    name: "move",
    scope: "admin",
    says: "The tenant's database moves to another back end. Callers are served during the move, and wait for a moment at its end.",
    fields: ({ backend }, { backends }) => [
      {
        name: "to",
        label: "To the back end",
        isRequired: true,
        pattern: "[a-z][a-z0-9_]{0,30}",
        options: backends.filter((name) => name !== backend),
        hint: `The tenant is on ${backend} now.`,
      },
    ],
  },
  {
    name: "undo_restore",
    label: "Undo restore",
    scope: "admin",
    needs: "restore",
    says: "The database from before the last restore replaces the current database, which is kept.",
    confirm: "Undo the restore",
    at: ({ id }) => path`v1/tenants/${id}/undo-restore`,
  },
  {
    name: "quarantine",
    scope: "operate",
    says: "The tenant's calls are refused until the tenant is repaired or restored.",
    fields: () => [REASON],
    isDangerous: true,
  },
  {
    name: "delete",
    scope: "admin",
    says: "The tenant's calls are refused. The tenant can be undeleted during its grace period; afterwards it is purged.",
    isDangerous: true,
    method: "DELETE",
    at: ({ id }) => path`v1/tenants/${id}`,
  },
  {
    name: "purge",
    scope: "admin",
    says: "The tenant's files and snapshots are removed permanently, even during its grace period. A purge cannot be undone.",
    fields: ({ id }) => [typed(id)],
    confirm: "Purge permanently",
    isDangerous: true,
    body: () => ({ force: true }),
  },
];

/** The actions of one of a tenant's snapshots. */
export const SNAPSHOT_ACTIONS = [
  {
    name: "restore",
    scope: "admin",
    needs: "restore",
    says: "The snapshot's data replaces the tenant's current data. The current data is kept, so the restore can be undone.",
    fields: ({ id }) => [typed(id)],
    isDangerous: true,
    at: ({ id }, snapshot) => path`v1/tenants/${id}/snapshots/${snapshot.id}/restore`,
  },
  {
    name: "clone",
    scope: "operate",
    needs: "copy",
    says: "A new tenant is created with this snapshot's data.",
    fields: (_, app) => [NEW_ID, NAME, ...backendOf(app)],
    body: (values, snapshot) => ({ ...values, snapshot_id: snapshot.id }),
  },
  {
    name: "delete",
    scope: "admin",
    needs: "copy",
    says: "The snapshot is deleted permanently.",
    isDangerous: true,
    method: "DELETE",
    at: ({ id }, snapshot) => path`v1/tenants/${id}/snapshots/${snapshot.id}`,
  },
];

/** Return whether an action is offered for a tenant in its current state. */
export function isOffered({ name, needs }, tenant) {
  return tenant.allows.includes(needs ?? name);
}

/** Return the label of an action's button. */
export function labelOf({ name, label }) {
  return label ?? name.charAt(0).toUpperCase() + name.slice(1);
}

/**
 * Ask the user to confirm an action, and do the action.
 *
 * @param app
 * @param action
 * @param tenant
 * @param snapshot The snapshot that the action concerns, or null.
 * @param {(answer: Object?, before: Object) => void} onDone Called when the action has ended, with the action's result and the
 *   tenant before the action.
 */
export function perform(app, action, tenant, snapshot, onDone) {
  const once = newIdempotencyKey();
  const whom = snapshot === null ? tenant.id : `${tenant.id}, snapshot ${snapshot.id}`;
  const title = `${labelOf(action)}: ${whom}`;
  ask({
    title,
    says: snapshot === null ? action.says : `Taken on ${moment(snapshot.created_at)}. ${action.says}`,
    fields: action.fields?.(tenant, app) ?? [],
    confirm: action.confirm ?? labelOf(action),
    isDangerous: action.isDangerous,
    submit: async (values) => {
      const answer = await app.api.send(action.method ?? "POST", pathOf(action, tenant, snapshot), {
        body: bodyOf(action, values, snapshot),
        once,
        ifMatch: action.ifMatch?.(tenant) ?? null,
      });
      settle(app, title, answer, (ended) => onDone(ended, tenant));
    },
  });
}

/** Ask for a new tenant's id and name, and create the tenant. */
export function create(app, onDone, id = "") {
  const once = newIdempotencyKey();
  ask({
    title: "Create a tenant",
    says: "The tenant gets its own migrated database.",
    fields: [{ ...NEW_ID, name: "id", label: "Id", value: id }, NAME, ...backendOf(app)],
    confirm: "Create",
    submit: async (values) => {
      const tenant = await app.api.send("POST", "v1/tenants", { body: withoutEmpty(values), once });
      settle(app, `Create: ${tenant.id}`, tenant, onDone);
    },
  });
}

/** Return the field for the back end of a new tenant; no field if the service has one back end. */
function backendOf({ backends }) {
  if (backends.length < 2) return [];
  const field = { name: "backend", label: "Back end (optional)", pattern: BACKEND_PATTERN, hint: BACKEND_HINT };
  return [{ ...field, options: backends }];
}

function settle(app, title, answer, onDone) {
  if (answer?.steps === undefined) {
    app.activity.done(title);
    onDone(answer);
    return;
  }
  // The dialog does not wait for a long operation.
  app.activity.follow(app.api, answer, title).then((ended) => ended.state === "succeeded" && onDone(ended.result));
}

function pathOf(action, tenant, snapshot) {
  return action.at?.(tenant, snapshot) ?? path`v1/tenants/${tenant.id}/${action.name}`;
}

function bodyOf(action, values, snapshot) {
  if (action.body) return withoutEmpty(action.body(values, snapshot));
  const { typed: _, ...said } = values;
  const body = withoutEmpty(said);
  return Object.keys(body).length > 0 ? body : null;
}

function withoutEmpty(values) {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== ""));
}
