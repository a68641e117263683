/** The API's description in OpenAPI 3.1, from the schemas that requests are checked with. */
import { z } from "zod";
import { chat_schema, completion_schema, mcqa_schema, routing_schema, tokenize_schema } from "./requests.js";

const posts = {
  "/v1/chat/completions": { schema: chat_schema, summary: "The answer to a conversation" },
  "/v1/completions": { schema: completion_schema, summary: "The continuation of prompts, as text or token ids" },
  "/v1/mcqa": { schema: mcqa_schema, summary: "The right option of a question, with every option's probability" },
  "/v1/routing": { schema: routing_schema, summary: "Which experts each token of a text is sent to, layer by layer" },
  "/tokenize": { schema: tokenize_schema, summary: "The token ids of a prompt or a conversation" },
} as const;
const gets = {
  "/v1/models": "The models, adapters among them",
  "/health": "200 once the model is loaded, 503 before and while the server stops",
  "/metrics": "Figures for Prometheus",
} as const;

export function openapi(version: string): object {
  const paths: Record<string, unknown> = {};
  for (const [path, { schema, summary }] of Object.entries(posts)) {
    const json = z.toJSONSchema(schema, { io: "input", unrepresentable: "any" });
    paths[path] = {
      post: {
        summary,
        requestBody: { required: true, content: { "application/json": { schema: json } } },
        responses: { 200: { description: "The answer" }, default: { $ref: "#/components/responses/Error" } },
      },
    };
  }
  for (const [path, summary] of Object.entries(gets))
    paths[path] = { get: { summary, responses: { 200: { description: summary } } } };
  const text = { type: "string" };
  const error = {
    type: "object",
    properties: { message: text, type: text, param: { type: ["string", "null"] }, code: text },
  };
  return {
    openapi: "3.1.0",
    info: { title: "BiMediX", version, description: "For research. None of it is medical advice." },
    paths,
    components: {
      securitySchemes: { key: { type: "http", scheme: "bearer" } },
      responses: {
        Error: {
          description: "A mistake, of the request or the server",
          content: { "application/json": { schema: { type: "object", properties: { error } } } },
        },
      },
    },
    security: [{}, { key: [] }],
  };
}
