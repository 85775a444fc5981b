import { createHash } from "node:crypto";
import { gunzipSync } from "node:zlib";
import { LinkError } from "./errors.ts";
import type { JobFinishedParams, JobFinishedResult, JobPartParams, JobPartResult } from "./messages.ts";

const MAX_RESULT_BYTES = 64 << 20;

/** Called with a whole result, whose hash is right. It returns once the text is stored for good. */
export type StoreResult = (final: JobFinishedParams, text: string) => Promise<"stored" | "conflict">;

/** Results of one agent's jobs, joined from their pieces and acknowledged once they are stored. */
export class JobResults {
  private readonly parts = new Map<string, Buffer[]>();
  private held = 0;

  private readonly store: StoreResult;

  constructor(store: StoreResult) {
    this.store = store;
  }

  /** `job.part`: one that comes at another offset than the next is not kept. */
  part(params: JobPartParams): JobPartResult {
    if (params.offset === 0) this.forget(params.job_id);
    const pieces = this.parts.get(params.job_id) ?? [];
    const expected = size(pieces);
    if (params.offset !== expected) return { job_id: params.job_id, next_offset: expected };
    const piece = Buffer.from(params.data, params.encoding === "gzip" ? "base64" : "utf8");
    if (this.held + piece.length > 2 * MAX_RESULT_BYTES) {
      throw new LinkError("too_large", "The unfinished results of this agent are larger than is taken.");
    }
    this.held += piece.length;
    this.parts.set(params.job_id, [...pieces, piece]);
    return { job_id: params.job_id, next_offset: expected + piece.length };
  }

  /** `job.finished`: hash, store, and only then acknowledge. */
  async finished(params: JobFinishedParams): Promise<JobFinishedResult> {
    const text = this.text(params);
    if (text === undefined || createHash("sha256").update(text).digest("hex") !== params.sha256) {
      if (typeof params.result === "string") {
        throw new LinkError("invalid_params", "params.sha256: the inline result has another one.");
      }
      return { job_id: params.job_id, resend_from: 0 };
    }
    const outcome = await this.store(params, text.toString());
    this.forget(params.job_id);
    return { job_id: params.job_id, sha256: params.sha256, conflict: outcome === "conflict" };
  }

  private text(params: JobFinishedParams): Buffer | undefined {
    if (params.bytes > MAX_RESULT_BYTES) throw new LinkError("too_large", "The result is larger than is taken.");
    if (typeof params.result === "string") return Buffer.from(params.result);
    const joined = Buffer.concat(this.parts.get(params.job_id) ?? []);
    if (params.encoding !== "gzip") return joined;
    try {
      // No further than the final says: what unpacks to more is another text at any rate.
      return gunzipSync(joined, { maxOutputLength: Math.max(params.bytes, 1) });
    } catch {
      return undefined;
    }
  }

  private forget(jobId: string): void {
    this.held -= size(this.parts.get(jobId) ?? []);
    this.parts.delete(jobId);
  }
}

function size(pieces: readonly Buffer[]): number {
  return pieces.reduce((sum, piece) => sum + piece.length, 0);
}
