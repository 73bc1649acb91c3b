// Pulls from a registry: the ollama command with cllm, and pulls that Ollama's own
// server or cllm began and the other one ends.

import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { before, test } from 'node:test'
import { folder, ollama, registry, serve, until } from './harness.mjs'

let models
before(async () => {
  models = await registry()
})

test('run pulls a model that is not there, and answers', async () => {
  const daemon = await serve({ env: { CLLM_NODEMO: '1' } })
  const { code, stdout, stderr } = await daemon.ollama(['run', '--insecure', models.name('tiny'), 'hello'])
  assert.equal(code, 0, stderr)
  assert.match(stderr, /pulling manifest[^]*pulling [0-9a-f]{12}: 100%[^]*success/)
  assert.notEqual(stdout.trim(), '')
  const again = await daemon.ollama(['pull', '--insecure', models.name('tiny')])
  assert.equal(again.code, 0, again.stderr)
  const none = await daemon.ollama(['pull', '--insecure', models.name('nowhere')])
  assert.equal(none.code, 1)
  assert.match(none.stderr, /Error: pull model manifest: file does not exist/)
})

const programs = {
  cllm: { env: { CLLM_NODEMO: '1' } },
  // Its start removes what no model needs, downloads too, unless it is told not to.
  ollama: { command: ollama, env: { GIN_MODE: 'release', OLLAMA_NOPRUNE: '1' } },
}

/** The parts of the one download in the folder, as their files say. */
function parts(daemon) {
  const blobs = path.join(daemon.store, 'blobs')
  return readdirSync(blobs).filter((name) => /-partial-\d+$/.test(name)).map((name) => {
    try {
      return JSON.parse(readFileSync(path.join(blobs, name), 'utf8'))
    } catch {
      return {} // it is being written
    }
  })
}

for (const [first, second, from] of [['ollama', 'cllm', 100_000_000], ['cllm', 'ollama', 5 * 2 ** 24]]) {
  test(`a pull of ${first}'s server that is killed is ended by ${second}, which fetches what is missing`, async () => {
    const home = await folder()
    const body = { model: models.name('large'), insecure: true, stream: false }
    await models.ask(`hold?from=${from}`)
    let daemon = await serve({ ...programs[first], home })
    const cut = daemon.request('POST', '/api/pull', body).catch(() => {}) // it is killed
    await until('all that is sent is noted', () => {
      const there = parts(daemon).filter((part) => part.Offset < from)
      return there.reduce((sum, part) => sum + part.Completed, 0) === from && there.every((part) => part.Completed === part.Size)
    }, 60_000)
    await daemon.kill()
    await cut

    const [partial] = readdirSync(path.join(daemon.store, 'blobs')).filter((name) => name.endsWith('-partial'))
    const digest = partial.replace('sha256-', 'sha256:').replace('-partial', '')
    await models.ask('release')
    await models.ask('asked')
    daemon = await serve({ ...programs[second], home })
    const { status, text } = await daemon.request('POST', '/api/pull', body)
    assert.deepEqual([status, text], [200, '{"status":"success"}'])
    const fetched = JSON.parse(await models.ask('asked')).map((line) => line.match(`${digest} bytes=(\\d+)-`)).filter(Boolean)
    assert.ok(fetched.length > 0)
    for (const [range, begin] of fetched) assert.ok(Number(begin) >= from, `${range} was there`)
    const list = JSON.parse((await daemon.request('GET', '/api/tags')).text).models
    assert.deepEqual(list.map(({ name }) => name), [`${models.name('large')}:latest`])
    await daemon.stop()
    assert.deepEqual(readdirSync(path.join(home, 'models', 'blobs')).filter((name) => name.includes('partial')), [])
  })
}
