/**
 * What the conformance kit runs: `node example/client.ts URL call AGENT METHOD PARAMS`, `… URL models AGENT`, `… URL job
 * AGENT JOB`. It prints what comes, and exits 0 if that was a whole answer.
 */
import { request } from "node:http";

const [url = "", what = "", agent = "", name = "", params = "{}"] = process.argv.slice(2);

const sent = request(`${url}/${what}/${agent}/${name}`, { method: what === "call" ? "POST" : "GET" }, (response) => {
  let last = "";
  response.setEncoding("utf8");
  response.on("data", (text: string) => {
    process.stdout.write(text);
    last = (last + text).split("\n").at(-1) ?? "";
  });
  response.on("close", () => {
    const failed = response.statusCode !== 200 || !response.complete || last.startsWith('{"error"');
    process.exitCode = failed ? 1 : 0;
  });
});
sent.on("error", () => (process.exitCode = 1));
sent.end(what === "call" ? params : undefined);
