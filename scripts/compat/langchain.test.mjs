// The npm packages @langchain/ollama and @langchain/core, against a daemon of its own.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { HumanMessage, ToolMessage } from '@langchain/core/messages'
import { ChatOllama, Ollama, OllamaEmbeddings } from '@langchain/ollama'
import { assertFitsSchema, assertUnitVector, expected, serve, shortSchema, thrownBy, weather } from './harness.mjs'

const daemon = await serve({ models: ['embed'] })
const { question, answer } = expected
const settings = { baseUrl: daemon.url, model: 'demo', maxRetries: 0 }
const chat = new ChatOllama(settings)

test('a chat is answered, with its usage', async () => {
  const reply = await chat.invoke(question)
  assert.equal(reply.content, answer)
  assert.ok(reply.usage_metadata.input_tokens > 0)
  assert.equal(reply.usage_metadata.output_tokens, reply.response_metadata.eval_count)
  assert.equal(reply.response_metadata.done_reason, 'stop')
})

test('a chat is streamed', async () => {
  const pieces = []
  for await (const piece of await chat.stream(question)) pieces.push(piece.content)
  assert.ok(pieces.length > 1, `${pieces.length} pieces`)
  assert.equal(pieces.join(''), answer)
})

test('several chats at once are answered', async () => {
  const replies = await chat.batch(Array(8).fill(question))
  assert.deepEqual(replies.map((reply) => reply.content), Array(8).fill(answer))
})

test('a tool is called, and its result is used', async () => {
  const bound = chat.bindTools([{ type: 'function', function: weather }])
  const asked = new HumanMessage(expected.tool.question)
  const reply = await bound.invoke([asked])
  assert.equal(reply.tool_calls.length, 1, `it says ${reply.content}`)
  const [call] = reply.tool_calls
  assert.deepEqual([call.name, call.args], [weather.name, expected.tool.arguments])
  const result = new ToolMessage({ tool_call_id: call.id, name: call.name, content: expected.tool.result })
  assert.equal((await bound.invoke([asked, reply, result])).content, expected.tool.answer)
})

test('structured output fits its schema', async () => {
  const structured = chat.withStructuredOutput(shortSchema, { method: 'jsonSchema' })
  assertFitsSchema(JSON.stringify(await structured.invoke(question)))
})

test('a prompt is completed', async () => {
  assert.equal(await new Ollama(settings).invoke(question), answer)
})

test('documents and a query are embedded', async () => {
  const embeddings = new OllamaEmbeddings({ ...settings, model: 'embed' })
  const vectors = await embeddings.embedDocuments(['a b c', 'd e f'])
  assert.equal(vectors.length, 2)
  for (const vector of vectors) assertUnitVector(vector, 64)
  assert.deepEqual(await embeddings.embedQuery('a b c'), vectors[0])
})

test('a missing model is an error with its name', async () => {
  const error = await thrownBy(new ChatOllama({ ...settings, model: 'nope' }).invoke(question))
  assert.match(error.message, /model 'nope' not found/)
})
