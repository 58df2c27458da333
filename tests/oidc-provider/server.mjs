// Starts the real oidc-provider on a free loopback port: the third party's authorization server in the tests.
//
//   node server.mjs CONFIG.json
//
// CONFIG.json:
//   {
//     "clients": [{"client_id": "..", "client_secret": "..",
//                  "token_endpoint_auth_method": "client_secret_basic" | "client_secret_post" |
//                                                "client_secret_jwt" | "private_key_jwt",
//                  "certificate": "..",      PEM, for tls_client_auth and self_signed_tls_client_auth; tokens are bound to it
//                                            unless "unbound": true stands beside "clients"
//                  "public_keys": [{"pem": "..", "alg": "RS256", "kid": ".."}]}],    for private_key_jwt; PEM is SPKI
//     "access_token_ttl": 300,                                   seconds; default 300
//     "resource_servers": {"https://api.example": {"scope": "read write", "access_token_ttl": 60}},
//     "default_resource": "https://api.example",                 optional
//     "tls": {"key": "..", "cert": "..", "ca": ".."},             optional; PEM. Then https, with clients' certificates by ca
//     "opaque_tokens": true,                                     optional; tokens that can be revoked and introspected
//     "dpop": {"require_nonce": true, "required": true}          optional; RFC 9449. Nonces wanted in proofs; no client without
//   }
// Beside client credentials it takes the JWT bearer grant (RFC 7523 2.1), which oidc-provider does not ship: assertions
// are verified by the client's public_keys, whoever is their subject. It needs client authentication.
// Access tokens for a resource server are JWTs (RFC 9068), signed with a key that is made at each start.
//
// Standard output: {"issuer": "http://127.0.0.1:PORT", "port": PORT} on one line, once it listens.
// Standard input, one JSON object a line, each answered by one line on standard output:
//   {"set_secret": {"client_id": "..", "client_secret": ".."}}   the old secret stops working at once
//   {"set_public_keys": {"client_id": "..", "public_keys": [..]}} the same for keys
//   {"set_token_ttl": 5}                                         for tokens made from now on, seconds
//   {"token_requests": true}                                     -> {"token_requests": N} since the start
//   {"last_assertion": true}                                     -> {"last_assertion": claims of the last JWT bearer grant}
//   {"introspect_last": {"client_id": "..", "client_secret": ".."}}  -> {"active": true} by its introspection endpoint,
//                                                                for the token that was granted last
// It ends when standard input closes, so that a test that dies leaves no process behind.

import { readFileSync } from 'node:fs';
import { randomBytes, X509Certificate } from 'node:crypto';
import { createServer } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import { createInterface } from 'node:readline';

import { createLocalJWKSet, exportJWK, generateKeyPair, importSPKI, jwtVerify } from 'jose';
import Provider, { errors } from 'oidc-provider';

if (Number(process.versions.node.split('.')[0]) < 20) {
  throw new Error(`Node.js ${process.versions.node} is too old for oidc-provider: run the tests by \`make test\``);
}

const JWT_BEARER = 'urn:ietf:params:oauth:grant-type:jwt-bearer';

const config = JSON.parse(readFileSync(process.argv[2], 'utf8'));
const clients = new Map();
for (const client of config.clients) clients.set(client.client_id, await describeClient(client));
const resourceServers = new Map(Object.entries(config.resource_servers ?? {}));
let tokenTtl = config.access_token_ttl ?? 300;
let tokenTtlForAll = false;
let tokenRequests = 0;
let lastToken;
let lastAssertion;

const server = config.tls
  ? createTlsServer({ ...config.tls, requestCert: true, rejectUnauthorized: false })
  : createServer();
await new Promise((resolve, reject) => server.once('error', reject).listen(0, '127.0.0.1', resolve));
const { port } = server.address();
const issuer = config.tls ? `https://localhost:${port}` : `http://127.0.0.1:${port}`;
const provider = new Provider(issuer, {
  adapter: MemoryAdapter,
  jwks: { keys: [await signingKey('RS256'), await signingKey('ES256')] },
  clientAuthMethods: [
    'client_secret_basic', 'client_secret_post', 'client_secret_jwt', 'private_key_jwt',
    'tls_client_auth', 'self_signed_tls_client_auth',
  ],
  enabledJWA: { clientAuthSigningAlgValues: ['HS256', 'RS256', 'PS256', 'ES256', 'EdDSA', 'Ed25519'] },
  responseTypes: [],
  scopes: scopesOfAllResourceServers(),
  ttl: { ClientCredentials: (_ctx, token) => token.resourceServer?.accessTokenTTL ?? tokenTtl },
  features: {
    clientCredentials: { enabled: true },
    devInteractions: { enabled: false },
    dPoP: {
      enabled: config.dpop !== undefined,
      nonceSecret: randomBytes(32),
      requireNonce: () => config.dpop?.require_nonce === true,
    },
    mTLS: {
      enabled: true,
      certificateBoundAccessTokens: true,
      tlsClientAuth: true,
      selfSignedTlsClientAuth: true,
      getCertificate: shownCertificate,
      certificateAuthorized: (ctx) => ctx.socket.authorized,
      certificateSubjectMatches: (ctx, property, expected) =>
        property === 'tls_client_auth_subject_dn' && shownCertificate(ctx)?.subject === expected,
    },
    introspection: { enabled: true, allowedPolicy: () => true },
    revocation: { enabled: true, allowedPolicy: () => true },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => config.default_resource,
      getResourceServerInfo: describeResourceServer,
      useGrantedResource: () => true,
    },
  },
});
provider.registerGrantType(JWT_BEARER, jwtBearer, ['assertion', 'scope', 'resource']);
provider.on('grant.success', (ctx) => { lastToken = ctx.body.access_token; });
const handle = provider.callback();
server.on('request', (request, response) => {
  if (request.method === 'POST' && request.url === '/token') tokenRequests += 1;
  handle(request, response);
});
reply({ issuer, port });

const lines = createInterface({ input: process.stdin });
lines.on('line', async (line) => reply(await obey(line)));
lines.on('close', () => process.exit(0));

async function obey(line) {
  let order;
  try {
    order = JSON.parse(line);
  } catch {
    return { error: 'not JSON' };
  }
  if (order.set_secret) {
    const { client_id: id, client_secret: secret } = order.set_secret;
    if (!clients.has(id)) return { error: 'no such client' };
    clients.set(id, { ...clients.get(id), client_secret: secret });
    return { done: 'set_secret' };
  }
  if (order.set_public_keys) {
    const { client_id: id, public_keys: keys } = order.set_public_keys;
    if (!clients.has(id)) return { error: 'no such client' };
    clients.set(id, { ...clients.get(id), jwks: { keys: await Promise.all(keys.map(publicKey)) } });
    return { done: 'set_public_keys' };
  }
  if (order.set_token_ttl) {
    tokenTtl = order.set_token_ttl;
    tokenTtlForAll = true;
    return { done: 'set_token_ttl' };
  }
  if (order.last_assertion) return { last_assertion: lastAssertion ?? null };
  if (order.introspect_last) return introspect(order.introspect_last);
  if (order.token_requests) return { token_requests: tokenRequests };
  return { error: 'unknown order' };
}

function reply(value) {
  process.stdout.write(`${JSON.stringify(value)}\n`);
}

async function describeClient(client) {
  const { client_id, client_secret, token_endpoint_auth_method = 'client_secret_basic', scope, public_keys } = client;
  const certificate = client.certificate && new X509Certificate(client.certificate);
  return {
    client_id,
    client_secret,
    token_endpoint_auth_method,
    ...(scope ? { scope } : {}),
    ...(public_keys ? { jwks: { keys: await Promise.all(public_keys.map(publicKey)) } } : {}),
    ...(token_endpoint_auth_method === 'tls_client_auth' ? { tls_client_auth_subject_dn: certificate.subject } : {}),
    ...(token_endpoint_auth_method === 'self_signed_tls_client_auth'
      ? { jwks: { keys: [{ ...(await exportJWK(certificate.publicKey)), x5c: [certificate.raw.toString('base64')] }] } }
      : {}),
    ...(certificate && !config.unbound ? { tls_client_certificate_bound_access_tokens: true } : {}),
    ...(config.dpop?.required ? { dpop_bound_access_tokens: true } : {}),
    grant_types: ['client_credentials', JWT_BEARER],
    redirect_uris: [],
    response_types: [],
  };
}

// RFC 7523 2.1 and 3: signature, issuer, audience, expiry; the same assertion is never taken twice.
const seenAssertions = new Set();
async function jwtBearer(ctx) {
  const { client, params } = ctx.oidc;
  let claims;
  try {
    const verified = await jwtVerify(params.assertion ?? '', createLocalJWKSet(clients.get(client.clientId).jwks), {
      issuer: client.clientId,
      audience: issuer,
      requiredClaims: ['sub', 'exp', 'jti'],
      maxTokenAge: 120,
    });
    claims = verified.payload;
  } catch (error) {
    throw new errors.InvalidGrant(`assertion: ${error.code}`);
  }
  if (seenAssertions.has(claims.jti)) throw new errors.InvalidGrant('assertion: used before');
  seenAssertions.add(claims.jti);
  lastAssertion = claims;
  const token = new provider.ClientCredentials({ client, scope: params.scope });
  if (params.resource) {
    const described = describeResourceServer(ctx, params.resource);
    token.resourceServer = new provider.ResourceServer(params.resource, described);
  }
  ctx.oidc.entity('ClientCredentials', token);
  const value = await token.save();
  ctx.body = { access_token: value, expires_in: token.expiration, token_type: 'Bearer', scope: token.scope };
}

function shownCertificate(ctx) {
  const { raw } = ctx.socket.getPeerCertificate?.() ?? {};
  return raw && new X509Certificate(raw);
}

async function introspect({ client_id: id, client_secret: secret }) {
  const form = new URLSearchParams({ token: lastToken ?? '', client_id: id, client_secret: secret });
  const answer = await fetch(`${issuer}/token/introspection`, { method: 'POST', body: form });
  const { active } = await answer.json();
  return active === undefined ? { error: `introspection answered ${answer.status}` } : { active };
}

function describeResourceServer(_ctx, resource) {
  const known = resourceServers.get(resource);
  if (!known) throw new errors.InvalidTarget();
  return {
    scope: known.scope ?? '',
    audience: resource,
    accessTokenTTL: tokenTtlForAll ? tokenTtl : (known.access_token_ttl ?? tokenTtl),
    ...(config.opaque_tokens
      ? { accessTokenFormat: 'opaque' }
      : { accessTokenFormat: 'jwt', jwt: { sign: { alg: known.alg ?? 'RS256' } } }),
  };
}

function scopesOfAllResourceServers() {
  return [...new Set([...resourceServers.values()].flatMap(({ scope = '' }) => scope.split(' ').filter(Boolean)))];
}

async function signingKey(alg) {
  const { privateKey } = await generateKeyPair(alg, { extractable: true });
  return { ...(await exportJWK(privateKey)), alg, use: 'sig', kid: `test-${alg}` };
}

async function publicKey({ pem, alg, kid }) {
  return { ...(await exportJWK(await importSPKI(pem, alg, { extractable: true }))), alg, use: 'sig', kid };
}

// Clients come from the adapter rather than from the static list, so that a secret can be changed while it runs.
// Everything else lives as long as the process.
function MemoryAdapter(model) {
  const stored = (MemoryAdapter.models ??= new Map());
  if (!stored.has(model)) stored.set(model, new Map());
  const entries = stored.get(model);
  const byKey = (key, value) => [...entries.values()].find((entry) => entry[key] === value);
  return {
    find: async (id) => (model === 'Client' ? clients.get(id) : entries.get(id)),
    findByUid: async (uid) => byKey('uid', uid),
    findByUserCode: async (userCode) => byKey('userCode', userCode),
    upsert: async (id, payload) => void entries.set(id, payload),
    consume: async (id) => void Object.assign(entries.get(id) ?? {}, { consumed: Math.floor(Date.now() / 1000) }),
    destroy: async (id) => void entries.delete(id),
    revokeByGrantId: async (grantId) => {
      for (const [id, entry] of entries) if (entry.grantId === grantId) entries.delete(id);
    },
  };
}
