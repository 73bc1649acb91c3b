// Compares the answers of cllm with those of Ollama's own server.

import assert from 'node:assert/strict'

/** What a command or a server has printed, without what differs from run to run. */
export function neutral(daemon, text) {
  return text
    .replaceAll(daemon.home, 'HOME')
    .replaceAll(daemon.url, 'URL')
    .replaceAll(/\b[0-9a-f]{12} {4}/g, 'ID ') // of the manifest, which has the model folder's path
    .replaceAll(/(\d+|About a|Less than a) (second|minute)s? ago +/g, 'AGE')
}

/**
 * Asserts that both daemons answer a request, [method, route, body, headers], with the
 * same status, and that ours has all of the body that theirs has; more fields are allowed.
 * With the reason why it differs on purpose, asserts that it does.
 */
export async function assertSameAnswer(ours, theirs, request, differs) {
  const [mine, other] = await Promise.all([answer(ours, request), answer(theirs, request)])
  if (!differs) assertHas(mine, other, '')
  else assert.throws(() => assertHas(mine, other, ''), assert.AssertionError, `not true any more: ${differs}`)
}

/** Asserts that both answers have the same status and fields, and that the JSON text in each is as check wants it. */
export async function assertSameKind(ours, theirs, request, check) {
  const [mine, other] = await Promise.all([answer(ours, request), answer(theirs, request)])
  for (const one of [mine, other]) {
    const texts = [...strings(one.body)].filter((text) => /^\s*[{]/.test(text))
    assert.equal(texts.length, 1, brief(one.body))
    check(texts[0])
  }
  assert.deepEqual(shape(mine, other), shape(other, other))
}

// The strings anywhere in a value.
function* strings(value) {
  if (typeof value === 'string') yield value
  else if (value !== null && typeof value === 'object') for (const item of Object.values(value)) yield* strings(item)
}

// The names of a value's fields and the types of what is in them, of those that like has. Lists may have other lengths.
function shape(value, like) {
  if (Array.isArray(like)) return like.length ? [shape(value?.[0], like[0])] : []
  if (like === null || typeof like !== 'object') return typeof value
  return Object.fromEntries(Object.keys(like).map((name) => [name, shape(value?.[name], like[name])]))
}

/** Headers that say something to a client. */
const headersThatCount = [
  'allow', 'location', 'retry-after', 'access-control-allow-origin', 'access-control-allow-methods', 'access-control-allow-headers',
  'access-control-max-age', 'access-control-allow-credentials', 'access-control-allow-private-network',
]

async function answer(daemon, request) {
  const { status, headers, text } = await daemon.request(...request)
  const type = headers['content-type']?.split(';')[0]
  const others = Object.fromEntries(headersThatCount.map((name) => [name, headers[name]]))
  return { status, type, ...others, body: read(type, neutral(daemon, text)) }
}

function read(type, text) {
  switch (text && type) {
    case 'application/json':
      return inOrder(JSON.parse(text))
    case 'application/x-ndjson':
      return text.trimEnd().split('\n').map((line) => JSON.parse(line)).reduce(joined)
    case 'text/event-stream':
      return events(text)
    default:
      return text
  }
}

// What has no order of its own gets one: models of the same second, and parameters,
// which Ollama prints in the order of a Go map.
function inOrder(body) {
  const byName = (a, b) => (a.name ?? a.id).localeCompare(b.name ?? b.id)
  for (const list of [body.models, body.data]) if (Array.isArray(list) && (list[0]?.name || list[0]?.object === 'model')) list.sort(byName)
  for (const name of ['parameters', 'modelfile']) if (typeof body[name] === 'string') body[name] = body[name].split('\n').sort()
  return body
}

/** Texts that come in pieces, and lists that do. */
const pieces = new Set(['response', 'content', 'thinking', 'reasoning', 'text', 'delta', 'partial_json', 'arguments'])
const lists = new Set(['tool_calls', 'logprobs', 'choices'])

// One answer of two parts of a stream: texts and lists put together, else the later.
function joined(a, b, name = '') {
  if (typeof a === 'string' && typeof b === 'string' && pieces.has(name)) return a + b
  if (Array.isArray(a) && Array.isArray(b)) {
    if (name === 'choices') return b.length ? [joined(a[0] ?? {}, b[0])] : a
    return lists.has(name) || name === 'content' ? [...a, ...b] : b
  }
  if (a === null || b === null || typeof a !== 'object' || typeof b !== 'object') return b ?? a
  const all = { ...a }
  for (const key of Object.keys(b)) all[key] = key in a ? joined(a[key], b[key], key) : b[key]
  return all
}

// The events of a stream: those of one kind in a row as one. Chunks without a type are
// one answer.
function events(text) {
  const all = []
  for (const block of text.trimEnd().split('\n\n')) {
    const data = block.slice(block.indexOf('data: ') + 'data: '.length)
    const event = data === '[DONE]' ? { type: data } : JSON.parse(data)
    delete event.sequence_number
    const last = all.at(-1)
    if (last && last.type === event.type) all[all.length - 1] = joined(last, event)
    else all.push(event)
  }
  return all
}

/** Fields that are made anew each time; only their type is compared. */
const fresh = new Set([
  'created_at', 'modified_at', 'completed_at', 'created', 'expires_at', 'digest', 'request_id', 'item_id', 'call_id', 'tool_use_id',
  'total_duration', 'load_duration', 'prompt_eval_duration', 'eval_duration',
])

/** Numbers that two engines compute alike but not to the last bit, and by how much they (of logprobs: the probabilities) may differ. */
const close = { logprob: 0.02, embedding: 0.002, embeddings: 0.002 }

function assertHas(mine, other, where, near = 0) {
  if (Array.isArray(other)) {
    assert.ok(Array.isArray(mine) && mine.length === other.length, `${where}: ${brief(mine)} in place of ${brief(other)}`)
    other.forEach((item, i) => assertHas(mine[i], item, `${where}[${i}]`, near))
  } else if (other !== null && typeof other === 'object') {
    assert.ok(mine !== null && typeof mine === 'object', `${where}: ${brief(mine)} in place of ${brief(other)}`)
    for (const name of Object.keys(other)) {
      assert.ok(name in mine, `${where}.${name} is missing; Ollama has ${brief(other[name])}`)
      if (fresh.has(name) || isMadeUp(name, other[name])) assert.equal(typeof mine[name], typeof other[name], `${where}.${name}`)
      else assertHas(mine[name], other[name], `${where}.${name}`, close[name] ?? near)
    }
  } else if (typeof other === 'number' && near > 0) {
    const [a, b] = where.endsWith('.logprob') ? [Math.exp(mine), Math.exp(other)] : [mine, other]
    assert.ok(Math.abs(a - b) <= near, `${where}: ${mine} in place of ${other}`)
  } else {
    assert.deepEqual(mine, other, where)
  }
}

// An id such as call_k3x8y2ab; not the name of a model.
const isMadeUp = (name, value) => name === 'id' && /^(chatcmpl-|cmpl-|resp_|msg_|rs_|fc_|call_)/.test(value)

function brief(value) {
  const text = JSON.stringify(value) ?? String(value)
  return text.length > 300 ? `${text.slice(0, 300)}...` : text
}
