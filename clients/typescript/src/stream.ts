import { createHash } from "node:crypto";
import { LinkError } from "./errors.ts";
import type { RequestId, StreamData } from "./messages.ts";

/** The largest text in pieces that is taken. */
const MAX_JOINED_BYTES = 64 << 20;

interface Batch {
  items: readonly unknown[];
  /** What to grant once they were read. */
  bytes: number;
}

/** One request of the server, from the moment that it is sent to its one answer. */
export class Call {
  readonly id: RequestId;
  readonly method: string;
  readonly result: Promise<unknown>;
  private readonly grant: (bytes: number) => void;
  /** Whether nobody waits for it any more: its data is dropped, and its credit given back. */
  abandoned = false;
  private seq = 0;
  private pieces: string[] = [];
  private held = 0;
  // A whole text that is a large item or the result: what comes next decides.
  private joined: string | undefined;
  private batches: Batch[] = [];
  private failure: Error | undefined;
  private ended = false;
  private wake: () => void = () => undefined;
  private settle!: { resolve: (value: unknown) => void; reject: (error: Error) => void };

  constructor(id: RequestId, method: string, grant: (bytes: number) => void) {
    this.id = id;
    this.method = method;
    this.grant = grant;
    this.result = new Promise((resolve, reject) => (this.settle = { resolve, reject }));
    // Whoever reads the items alone must not end the process by a failure of the result.
    this.result.catch(() => undefined);
  }

  /** `stream.data` of so many bytes came. */
  data(data: StreamData, bytes: number): void {
    if (this.ended || this.abandoned) {
      this.grant(bytes);
      return;
    }
    if (data.seq !== this.seq) {
      this.fail(new LinkError("stream_incomplete", `stream.data came with seq ${data.seq}, not ${this.seq}`));
      return;
    }
    this.seq += 1;
    this.claimAsItem();
    if (typeof data.part === "string") {
      // A text is read when it is whole, and needs credit until then.
      this.piece(data.part, data.more ?? false);
      this.grant(bytes);
    } else {
      this.push({ items: data.items ?? [], bytes });
    }
  }

  /** The answer came. */
  finish(result: Record<string, unknown>): void {
    const end = result["stream"] as { next_seq?: number } | undefined;
    if (this.pieces.length || (end?.next_seq !== undefined && end.next_seq !== this.seq)) {
      this.fail(new LinkError("stream_incomplete", "the answer came, and parts of its stream did not"));
      return;
    }
    let value: unknown = result;
    if (this.joined !== undefined && typeof result["sha256"] === "string") {
      if (createHash("sha256").update(this.joined).digest("hex") !== result["sha256"]) {
        this.fail(new LinkError("stream_incomplete", "the joined text has another sha256 than its answer says"));
        return;
      }
      value = JSON.parse(this.joined);
    } else {
      this.claimAsItem();
    }
    this.ended = true;
    this.settle.resolve(value);
    this.wake();
  }

  /** It ended otherwise. */
  fail(error: Error): void {
    if (this.ended) return;
    this.ended = true;
    this.failure = error;
    this.settle.reject(error);
    this.wake();
  }

  /** Items as they come; each batch's credit goes back once it was read. */
  async *items(): AsyncGenerator<unknown, void, void> {
    for (;;) {
      const batch = this.batches.shift();
      if (batch) {
        yield* batch.items;
        this.grant(batch.bytes);
      } else if (this.failure) {
        throw this.failure;
      } else if (this.ended) {
        return;
      } else {
        await new Promise<void>((resolve) => (this.wake = resolve));
      }
    }
  }

  private push(batch: Batch): void {
    this.batches.push(batch);
    this.wake();
  }

  private claimAsItem(): void {
    if (this.joined === undefined) return;
    this.push({ items: [JSON.parse(this.joined)], bytes: 0 });
    this.joined = undefined;
  }

  private piece(text: string, more: boolean): void {
    this.held += Buffer.byteLength(text);
    if (this.held > MAX_JOINED_BYTES) {
      this.fail(new LinkError("too_large", `a text in pieces is over ${MAX_JOINED_BYTES} bytes`));
      return;
    }
    this.pieces.push(text);
    if (!more) {
      this.joined = this.pieces.join("");
      this.pieces = [];
      this.held = 0;
    }
  }
}
