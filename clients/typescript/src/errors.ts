import { ERROR_CODES, type WireError } from "./messages.ts";

/** An error of the protocol: `kind` is the stable word, the message is for people. */
export class LinkError extends Error {
  override readonly name = "LinkError";
  readonly kind: string;
  readonly data: Record<string, unknown>;

  constructor(kind: string, message: string, data: Record<string, unknown> = {}) {
    super(message);
    this.kind = kind;
    this.data = data;
  }

  /** The error object that an answer carries. */
  toWire(): WireError {
    return {
      code: ERROR_CODES[this.kind] ?? -32603,
      message: this.message,
      data: { kind: this.kind, ...this.data },
    };
  }

  /** The error that an answer carried. */
  static fromWire(error: WireError): LinkError {
    const { kind = "internal", ...data } = error.data ?? {};
    return new LinkError(kind, error.message, data);
  }
}
