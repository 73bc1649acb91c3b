// cllm and Ollama's own server, which comes with the real ollama command, answer the
// same requests with the same models. At temperature 0 both say the same words.

import assert from 'node:assert/strict'
import { cpSync } from 'node:fs'
import { test } from 'node:test'
import { assertSameAnswer, assertSameKind } from './compare.mjs'
import { assertFitsSchema, expected, folder, ollama, serve, shortSchema, weather } from './harness.mjs'

// Ollama gets a copy of the model folder that cllm has written.
const ours = await serve({ models: ['tiny', 'embed'] })
await ours.request('POST', '/api/create', { model: 'small', from: 'demo', stream: false })
const home = await folder()
cpSync(ours.store, `${home}/models`, { recursive: true })
const theirs = await serve({ command: ollama, home, env: { GIN_MODE: 'release' } })

const { question } = expected
const user = { role: 'user', content: question }
const tools = [{ type: 'function', function: weather }]
const asked = { role: 'user', content: expected.tool.question }
const call = { role: 'assistant', content: '', tool_calls: [{ function: { name: weather.name, arguments: expected.tool.arguments } }] }
const result = { role: 'tool', tool_name: weather.name, content: expected.tool.result }
const raw = `<|im_start|>user\n${question}<|im_end|>\n<|im_start|>assistant\n`

const routes = {
  '/api/generate': { model: 'small', prompt: question },
  '/api/chat': { model: 'small', messages: [user] },
  '/api/embed': { model: 'embed', input: 'a b c' },
  '/api/embeddings': { model: 'embed', prompt: 'a b c' },
  '/v1/chat/completions': { model: 'small', messages: [user], temperature: 0 },
  '/v1/completions': { model: 'small', prompt: question, temperature: 0 },
  '/v1/embeddings': { model: 'embed', input: 'a b c' },
  '/v1/responses': { model: 'small', input: question, temperature: 0 },
  '/v1/messages': { model: 'small', max_tokens: 100, messages: [user], temperature: 0 },
}

/** What is added to the request of a route, each a request of its own. */
const variations = {
  '/api/generate': [
    {}, { stream: false }, { raw: true, prompt: raw }, { system: 'You are a helpful assistant.' }, { template: '{{ .Prompt }}!' },
    { options: { num_predict: 3 } }, { options: { stop: ['daemon'] } }, { options: { num_predict: 0 } }, { options: { num_ctx: 64 } }, { think: false }, { logprobs: true },
    { logprobs: true, top_logprobs: 1, stream: false }, { format: shortSchema }, { format: shortSchema, stream: false },
    { prompt: '' }, { prompt: '', keep_alive: '10m' }, { prompt: '', keep_alive: 0 }, { keep_alive: 0, options: { num_predict: 2 } },
    { context: [1, 2, 3], options: { num_predict: 4 } }, { images: ['aGk='], options: { num_predict: 2 } }, { model: 'embed' },
  ],
  '/api/chat': [
    {}, { stream: false }, { messages: [{ role: 'system', content: 'You are a helpful assistant.' }, user] },
    { messages: [user, { role: 'assistant', content: 'cllm is' }] }, { messages: [user, { role: 'assistant', content: expected.answer }, { role: 'user', content: 'Thanks!' }] },
    { messages: [] }, { messages: [], keep_alive: 0 }, { options: { num_predict: 3 } }, { options: { stop: ['daemon'] } }, { think: false },
    { logprobs: true }, { logprobs: true, top_logprobs: 1 }, { format: shortSchema }, { format: '' }, { format: null }, { tools, messages: [asked] },
    { tools, messages: [asked], stream: false }, { tools, messages: [asked, call, result] }, { tools }, { model: 'embed' },
    { format: 'xml' }, { format: 3 }, { format: { type: 'nope' } },
    { messages: Array(40).fill(user), options: { num_ctx: 256, num_predict: 4 }, stream: false },
    { model: 'tiny', messages: [{ role: 'user', content: 'x'.repeat(2000) }], truncate: false, stream: false },
  ],
  '/api/embed': [
    {}, { input: ['a b c', 'd e f'] }, { input: '' }, { input: [] }, { input: ['a', ''] }, { dimensions: 16 }, { input: 'a b c '.repeat(200) },
    { input: 'a b c '.repeat(200), truncate: false }, { keep_alive: 0 }, { model: 'tiny' }, { input: null },
  ],
  '/api/embeddings': [{}, { prompt: '' }, { prompt: 'a b c '.repeat(200) }],
  '/v1/chat/completions': [
    {}, { stream: true }, { stream: true, stream_options: { include_usage: true } }, { max_tokens: 3 }, { max_tokens: 3, stream: true }, { stop: 'daemon' },
    { tools, messages: [asked] }, { tools, messages: [asked], stream: true }, { response_format: { type: 'json_schema', json_schema: { name: 'x', schema: shortSchema } } },
    { logprobs: true, top_logprobs: 1 }, { messages: [{ role: 'user', content: [{ type: 'text', text: question }] }] }, { model: 'nope' }, { model: 'tiny', tools },
  ],
  '/v1/completions': [{}, { stream: true }, { stream: true, stream_options: { include_usage: true } }, { max_tokens: 3 }, { stop: ['daemon'] }, { model: 'nope' }],
  '/v1/embeddings': [{}, { input: ['a b c', 'd e f'] }, { encoding_format: 'float', dimensions: 16 }, { input: '' }, { model: 'nope' }],
  '/v1/responses': [
    {}, { stream: true }, { instructions: 'You are a helpful assistant.' }, { max_output_tokens: 3 }, { input: [{ role: 'user', content: [{ type: 'input_text', text: question }] }] },
    { input: expected.tool.question, tools: [{ type: 'function', ...weather }] }, { input: expected.tool.question, tools: [{ type: 'function', ...weather }], stream: true },
    { text: { format: { type: 'json_schema', name: 'x', schema: shortSchema } } }, { model: 'nope' },
  ],
  '/v1/messages': [
    {}, { stream: true }, { system: 'You are a helpful assistant.' }, { max_tokens: 3 }, { max_tokens: 3, stream: true }, { stop_sequences: ['daemon'] },
    { messages: [asked], tools: [{ name: weather.name, input_schema: weather.parameters }] }, { messages: [asked], tools: [{ name: weather.name, input_schema: weather.parameters }], stream: true },
    { thinking: { type: 'enabled', budget_tokens: 1024 } }, { model: 'nope' },
  ],
}

/** Where the answers differ knowingly, as docs/api.md says. */
const differs = new Map([
  ...['chat/completions', 'completions', 'embeddings', 'responses'].map((route) => [`/v1/${route} {"model":"nope"}`, 'the type of an error follows the status']),
  [`/v1/chat/completions ${JSON.stringify({ model: 'tiny', tools })}`, 'the type of an error follows the status'],
  ['/api/embed {"model":"tiny"}', 'a model that answers gives embeddings too'],
])

for (const [route, list] of Object.entries(variations)) {
  for (const more of list) {
    const name = `${route} ${JSON.stringify(more)}`
    const request = ['POST', route, { ...routes[route], ...more }]
    // How much white space a format gets, and what the model chooses where nothing is likely, are matters of the last bits.
    const formatted = name.includes('"properties"') && name.includes('ormat')
    test(name.slice(0, 160), () => (formatted ? assertSameKind(ours, theirs, request, assertFitsSchema) : assertSameAnswer(ours, theirs, request, differs.get(name))))
  }
}

test('ps', async () => {
  await assertSameAnswer(ours, theirs, ['POST', '/api/generate', { model: 'tiny' }])
  const [mine, other] = await Promise.all([ours, theirs].map(async (daemon) => JSON.parse((await daemon.request('GET', '/api/ps')).text).models))
  const tiny = (list) => list.find((model) => model.name === 'tiny:latest')
  const told = ({ name, model, digest, details, context_length }) => ({ name, model, digest, details, context_length })
  assert.deepEqual(told(tiny(mine)), told(tiny(other)))
})

test('the ids of the models are the same in both', async () => {
  const [mine, other] = await Promise.all([ours, theirs].map(async (daemon) => JSON.parse((await daemon.request('GET', '/api/tags')).text).models))
  assert.deepEqual(mine.map((model) => [model.name, model.digest]).sort(), other.map((model) => [model.name, model.digest]).sort())
})
