import { vitePreprocess } from "@sveltejs/vite-plugin-svelte";

/** Styles of components go into files: the content security policy allows no inline style element. */
export default { preprocess: vitePreprocess(), compilerOptions: { css: "external", runes: true } };
