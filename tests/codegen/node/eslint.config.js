import eslint from "@eslint/js";
import { defineConfig } from "eslint/config";
import tseslint from "typescript-eslint";

export default defineConfig(
  { ignores: ["**/*.d.ts"] }, // their `#private` is how the compiler says that there is something
  { linterOptions: { reportUnusedDisableDirectives: "error" } },
  { files: ["**/*.ts"], extends: [eslint.configs.recommended, tseslint.configs.recommended] },
  {
    files: ["**/*.js"],
    extends: [eslint.configs.recommended],
    rules: { "no-undef": "off" }, // what browsers and Node have, tsc knows
  },
);
