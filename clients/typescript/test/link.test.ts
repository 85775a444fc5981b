import assert from "node:assert/strict";
import { once } from "node:events";
import { test } from "node:test";
import { WebSocket } from "ws";
import { LinkError, sha256 } from "../src/index.ts";
import { linked, SECRET } from "./agent.ts";

const MODEL = { model: "m", prompt: "p" };
const END = { next_seq: 1, dropped: 0 };

test("a request has one answer, and an error is a LinkError of its kind", () =>
  linked({}, async ({ agent, session }) => {
    const good = session.request("running_models", {});
    const asked = await agent.until((frame) => frame["method"] === "running_models");
    agent.send({ id: asked["id"], result: { models: [] } });
    assert.deepEqual(await good, { models: [] });
    const bad = session.request("show_model", { model: "m" });
    const refused = await agent.until((frame) => frame["method"] === "show_model");
    agent.send({ id: refused["id"], error: { code: -32002, message: "no", data: { kind: "model_not_found" } } });
    await assert.rejects(bad, (error) => error instanceof LinkError && error.kind === "model_not_found");
  }));

test("a stream's credit comes back as its items are read, the link's at once", () =>
  linked({}, async ({ agent, session }) => {
    const stream = session.stream("generate", MODEL);
    const { id } = await agent.until((frame) => frame["method"] === "generate");
    const size = agent.send({
      method: "stream.data",
      params: { id, seq: 0, items: [{ t_us: 1, chunk: { response: "a" } }] },
    });
    await agent.until((frame) => frame["method"] === "link.credit");
    assert.equal(agent.granted("link.credit"), size);
    assert.equal(agent.granted("stream.credit"), 0);
    agent.send({ id, result: { final: { done: true }, t_us: 2, stream: END } });
    // The answer is not here yet, or its stream would be forgotten: read at once.
    const items = [];
    for await (const item of stream.items) items.push(item.chunk);
    assert.deepEqual(items, [{ response: "a" }]);
    assert.deepEqual((await stream.result).final, { done: true });
  }));

test("whoever leaves the loop has cancelled the request", () =>
  linked({}, async ({ agent, session }) => {
    const stream = session.stream("generate", MODEL);
    const { id } = await agent.until((frame) => frame["method"] === "generate");
    agent.send({ method: "stream.data", params: { id, seq: 0, items: [{ t_us: 1, chunk: {} }] } });
    for await (const item of stream.items) {
      assert.ok(item);
      break;
    }
    const cancel = await agent.until((frame) => frame["method"] === "cancel");
    assert.deepEqual(cancel["params"], { id });
  }));

test("a hole in a stream fails it, and so does a final that counts more than came", () =>
  linked({}, async ({ agent, session }) => {
    for (const [seq, next_seq] of [[1, 1], [0, 2]] as const) {
      const before = agent.frames.length;
      const stream = session.stream("generate", MODEL);
      const { id } = await agent.until((one) => one["method"] === "generate" && agent.frames.indexOf(one) >= before);
      agent.send({ method: "stream.data", params: { id, seq, items: [] } });
      agent.send({ id, result: { final: {}, t_us: 1, stream: { next_seq, dropped: 0 } } });
      await assert.rejects(stream.result, (error) => error instanceof LinkError && error.kind === "stream_incomplete");
    }
  }));

test("a result in pieces is joined, and refused when its sha256 is another one", () =>
  linked({}, async ({ agent, session }) => {
    const text = JSON.stringify({ embeddings: [[1]] });
    for (const digest of [sha256(text), "0".repeat(64)]) {
      const before = agent.frames.length;
      const answer = session.request("embed", { model: "m" });
      const { id } = await agent.until((one) => one["method"] === "embed" && agent.frames.indexOf(one) >= before);
      agent.send({ method: "stream.data", params: { id, seq: 0, part: text.slice(0, 5), more: true } });
      agent.send({ method: "stream.data", params: { id, seq: 1, part: text.slice(5) } });
      agent.send({ id, result: { bytes: text.length, sha256: digest, stream: { next_seq: 2, dropped: 0 } } });
      if (digest === sha256(text)) assert.deepEqual(await answer, { embeddings: [[1]] });
      else await assert.rejects(answer, LinkError);
    }
  }));

test("an image goes ahead in pieces, which join to it, also while every other place is taken", () =>
  linked({}, async ({ agent, session }) => {
    for (const _ of Array(64)) session.request("running_models", {}).catch(() => undefined);
    assert.throws(() => session.stream("generate", MODEL), (error) => error instanceof LinkError && error.kind === "busy");
    for (const size of [0, 36 << 10, 100_000]) {
      const image = Buffer.from(Array.from({ length: size }, (_, n) => n % 251));
      const before = agent.frames.length;
      const attached = session.attach(image);
      const pieces: Record<string, any>[] = [];
      do {
        const offset = pieces.length * (36 << 10);
        const piece = await agent.until(
          (one) => one["params"]?.offset === offset && agent.frames.indexOf(one) >= before,
        );
        pieces.push(piece);
        agent.send({ id: piece["id"], result: { blob: piece["params"].blob, bytes: offset } });
      } while (!pieces.at(-1)?.["params"].last);
      const { blob } = await attached;
      assert.deepEqual(new Set(pieces.map((one) => one["params"].blob)), new Set([blob]));
      assert.deepEqual(Buffer.concat(pieces.map((one) => Buffer.from(one["params"].data, "base64"))), image);
      assert.ok(pieces.every((one) => JSON.stringify(one).length < 64 << 10));
    }
  }));

test("a result is acknowledged once it is stored, and not before", () => {
  const stored = Promise.withResolvers<"stored">();
  return linked({ result: () => stored.promise }, async ({ agent }) => {
    const final = { job_id: "j", kind: "benchmark", state: "completed", bytes: 2, sha256: sha256("{}"), result: "{}" };
    agent.send({ id: 7, method: "job.finished", params: final });
    // What is asked later is answered first.
    agent.send({ id: 8, method: "hardware.sync", params: { revision: 1, inventory: {} } });
    await agent.until((frame) => frame["id"] === 8);
    assert.equal(agent.frames.some((frame) => frame["id"] === 7), false);
    stored.resolve("stored");
    const { result } = await agent.until((frame) => frame["id"] === 7);
    assert.equal(result.sha256, sha256("{}"));
  });
});

test("a wrong credential is refused with 401, and whoever does not ask for obt.v1 with 426", () =>
  linked({}, async ({ url }) => {
    for (const [credential, protocols, status] of [
      ["wrong", ["obt.v1"], 401],
      [SECRET, [], 426],
    ] as const) {
      const socket = new WebSocket(url, [...protocols], { headers: { authorization: `Bearer ${credential}` } });
      const [, response] = (await once(socket, "unexpected-response")) as [unknown, { statusCode: number }];
      assert.equal(response.statusCode, status);
    }
  }));

test("parameters that a method needs and that are missing are named", () =>
  linked({}, async ({ agent }) => {
    agent.send({ id: 9, method: "job.part", params: { job_id: "j", offset: 0 } });
    const { error } = await agent.until((frame) => frame["id"] === 9);
    assert.equal(error.code, -32602);
    assert.match(error.message, /params\.data/);
  }));
