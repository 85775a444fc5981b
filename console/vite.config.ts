import { readFileSync, writeFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { brotliCompressSync, constants, gzipSync } from "node:zlib";

import { svelte } from "@sveltejs/vite-plugin-svelte";
import { defineConfig, type Plugin } from "vite";

const here = dirname(fileURLToPath(import.meta.url));
const out = resolve(here, "../obt_server/page/static");
/** What ends up in the bundle: its licences are shipped beside it. */
const BUNDLED = ["svelte", "uplot", "marked"];

/** Writes the licences of what is bundled, and compressed copies, so that the server compresses nothing. */
function finish(): Plugin {
    return {
        name: "obt-finish",
        apply: "build",
        generateBundle() {
            const texts = BUNDLED.map((name) => {
                const folder = join(here, "node_modules", name);
                const { version, license } = JSON.parse(
                    readFileSync(join(folder, "package.json"), "utf8"),
                ) as {
                    version: string;
                    license: string;
                };
                const file = ["LICENSE", "LICENSE.md", "LICENSE.txt"].find((one) => {
                    try {
                        readFileSync(join(folder, one));
                        return true;
                    } catch {
                        return false;
                    }
                });
                const text = file === undefined ? license : readFileSync(join(folder, file), "utf8").trim();
                return `${name} ${version} (${license})\n\n${text}\n`;
            });
            this.emitFile({
                type: "asset",
                fileName: "licenses.txt",
                source: texts.join(`\n${"-".repeat(78)}\n\n`),
            });
        },
        writeBundle(options, bundle) {
            const folder = options.dir ?? out;
            const names = Object.keys(bundle).filter((name) => /\.(js|css|html|svg|txt)$/.test(name));
            for (const name of names) {
                const bytes = readFileSync(join(folder, name));
                writeFileSync(join(folder, `${name}.gz`), gzipSync(bytes, { level: 9 }));
                writeFileSync(
                    join(folder, `${name}.br`),
                    brotliCompressSync(bytes, { params: { [constants.BROTLI_PARAM_QUALITY]: 11 } }),
                );
            }
        },
    };
}

export default defineConfig({
    base: "./", // the page works under any path of a site
    plugins: [svelte(), finish()],
    build: {
        outDir: out,
        emptyOutDir: true,
        target: "es2022",
        assetsInlineLimit: 0, // the content security policy allows no inline data but images
        modulePreload: { polyfill: false },
        reportCompressedSize: false,
        rollupOptions: {
            output: {
                entryFileNames: "assets/[name].[hash].js",
                chunkFileNames: "assets/[name].[hash].js",
                assetFileNames: "assets/[name].[hash][extname]",
            },
        },
    },
    server: { proxy: { "/api": { target: "http://127.0.0.1:8881", ws: true } } },
    resolve: { alias: { $lib: join(here, "src/lib") } },
    test: { environment: "jsdom", isolate: false, include: ["src/**/*.test.ts"] },
} as Parameters<typeof defineConfig>[0]);
