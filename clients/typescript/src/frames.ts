import { LinkError } from "./errors.ts";
import { REQUIRED } from "./messages.ts";

export type Json = Record<string, unknown>;

/** Each array and object is a level, the frame itself the first. */
export const MAX_DEPTH = 64;

/** A frame that is no message; `id` is null where it could not be read. */
export class BadFrame extends Error {
  readonly error: LinkError;
  readonly id: unknown;

  constructor(error: LinkError, id: unknown = null) {
    super(error.message);
    this.error = error;
    this.id = id;
  }
}

/** Read one text frame. */
export function decode(text: string): Json {
  let frame: unknown;
  try {
    frame = JSON.parse(text);
  } catch {
    throw new BadFrame(new LinkError("parse_error", "The frame is not JSON."));
  }
  if (!isObject(frame) || deeperThan(frame, MAX_DEPTH)) {
    throw new BadFrame(new LinkError("invalid_request", "A frame holds one object of at most 64 levels."));
  }
  const id = validId(frame["id"]) ? frame["id"] : null;
  if (frame["jsonrpc"] !== "2.0" || ("id" in frame && id === null && !("error" in frame))) {
    throw new BadFrame(new LinkError("invalid_request", '"jsonrpc" must be "2.0", and "id" an id.'), id);
  }
  if ("method" in frame && !isObject(frame["params"] ?? {})) {
    throw new BadFrame(new LinkError("invalid_params", '"params" must be an object.'), id);
  }
  return frame;
}

/** Throw `invalid_params` unless every field that the method needs is there. */
export function checkParams(method: string, params: Json): void {
  for (const field of REQUIRED[method] ?? []) {
    if (params[field] === undefined || params[field] === null) {
      throw new LinkError("invalid_params", `params.${field}: missing.`, { detail: { field: `params.${field}` } });
    }
  }
}

export function isObject(value: unknown): value is Json {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function validId(id: unknown): id is number | string {
  return typeof id === "string" ? id.length > 0 && id.length <= 64 : Number.isSafeInteger(id) && (id as number) >= 0;
}

function deeperThan(value: unknown, limit: number): boolean {
  if (typeof value !== "object" || value === null) return false;
  // The limit is also what bounds the recursion.
  return limit === 0 || Object.values(value).some((one) => deeperThan(one, limit - 1));
}
