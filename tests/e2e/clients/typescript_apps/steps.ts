// What an app does in a scenario, with the TypeScript client. The test gives the steps and takes the outcomes, over HTTP.
import {
  KeyferryClient,
  LoggedOut,
  Rejected,
  Retryable,
  TamperedDelivery,
  type DeviceKeys,
  type Fetch,
  type LoginDetails,
  type Storage,
} from "keyferry-client";

export interface App {
  readonly id: string;
  readonly name: string;
  readonly device: string;
  readonly issuer: string;
  readonly client_key: string;
  readonly timeout: number;
  readonly attempts: number;
  readonly clock: number;
}

/** What outlives the app. */
export interface Phone {
  keys: DeviceKeys;
  readonly storage: Storage;
  /** Another encryption key, kept before it is used. */
  renew(): Promise<DeviceKeys>;
  /** Try to take the private keys out. Return the names of the errors. */
  steal?(): Promise<string[]>;
}

/** The platform that the steps run on. */
export interface Platform {
  phone(device: string): Promise<Phone>;
  fetch(issuer: string): Fetch;
  restart(): Promise<void>;
}

interface Command {
  readonly app: App;
  readonly do: string;
  readonly with: Given;
}

/** What a step of `scenarios.json` has; each step has some of it. */
interface Given {
  readonly username: string;
  readonly password: string;
  readonly otp: string;
  readonly auth_session: string;
  readonly provider: string;
  readonly id_token: string;
  readonly name: string;
  readonly names: string[];
  readonly new: boolean;
  readonly key: string;
  readonly method: string;
  readonly path: string;
  readonly headers: Record<string, string>;
  readonly body: string;
  readonly apps: App[];
  readonly times: number;
  readonly do: string;
}

let clockOffset = 0;
const rightTime = Date.now;
Date.now = () => rightTime() + clockOffset * 1000;

/** Take commands from the test, until it has no more. */
export async function serve(test: string, platform: Platform): Promise<void> {
  const steps = new Steps(platform);
  for (;;) {
    const reply = await fetch(`${test}/-/next`);
    if (reply.status === 204) {
      continue;
    }
    if (!reply.ok) {
      return;
    }
    const command = (await reply.json()) as Command;
    const outcome = await steps.run(command);
    await fetch(`${test}/-/done`, { method: "POST", body: JSON.stringify(outcome) });
    if (command.do === "restart") {
      await platform.restart();
    }
  }
}

class Steps {
  private readonly running = new Map<string, KeyferryClient>();

  constructor(private readonly platform: Platform) {}

  async run(command: Command): Promise<object> {
    clockOffset = command.app.clock;
    try {
      return { value: await this.step(command.app, command.do, command.with) };
    } catch (error) {
      if (error instanceof LoggedOut || error instanceof TamperedDelivery) {
        return { error: error.name };
      }
      if (error instanceof Retryable) {
        return { error: error.name, retry_after: error.retryAfter };
      }
      if (error instanceof Rejected) {
        return { error: error.name, code: error.code, auth_session: error.authSession };
      }
      return { error: error instanceof Error ? error.stack : String(error) };
    }
  }

  private async client(app: App): Promise<KeyferryClient> {
    let client = this.running.get(app.id);
    if (client === undefined) {
      const { issuer, client_key: clientKey, timeout, attempts } = app;
      const { keys, storage } = await this.platform.phone(app.device);
      const config = { issuer, clientId: "ios", clientKey, timeout, attempts, fetch: this.platform.fetch(issuer) };
      client = new KeyferryClient(config, keys, storage);
      this.running.set(app.id, client);
    }
    return client;
  }

  private async step(app: App, name: string, given: Given): Promise<unknown> {
    if (name === "restart") {
      this.running.delete(app.id);
      return null;
    }
    if (name === "together") {
      const { apps, times } = given;
      await Promise.all(apps.map(async (each) => this.client(each)));
      const all = Array.from({ length: times }, () => apps).flat();
      const found = await Promise.all(all.map(async (each) => this.step(each, given.do, given)));
      return { different: new Set(found).size };
    }
    const phone = await this.platform.phone(app.device);
    if (name === "steal_private_keys") {
      return phone.steal?.();
    }
    if (name === "thumbprint") {
      return phone.keys.jkt();
    }
    const client = await this.client(app);
    const details: LoginDetails = { deviceName: app.name, appVersion: "1.0.0" };
    switch (name) {
      case "login": {
        const { username, password, otp } = given;
        return (await client.login({ username, password, otp }, details)) !== undefined;
      }
      case "login_with_code": {
        const { auth_session: authSession, otp } = given;
        return (await client.login({ authSession, otp }, details)) !== undefined;
      }
      case "login_with_id_token": {
        const { provider, id_token: idToken } = given;
        return (await client.login({ provider, idToken }, details)) !== undefined;
      }
      case "id_token_nonce":
        return client.idTokenNonce();
      case "access_token":
        return client.accessToken();
      case "refresh":
        return (await client.refresh()) !== undefined;
      case "keys": {
        const found = await client.keys(given.names);
        return Object.fromEntries([...found].map(([each, key]) => [each, key.value]));
      }
      case "withheld":
        return Object.fromEntries(await client.withheld(given.names));
      case "key":
        return (await client.key(given.name)).value;
      case "replace_encryption_key":
        phone.keys = given.new ? await phone.renew() : phone.keys;
        await client.replaceEncryptionKey(phone.keys);
        return true;
      case "proxy": {
        const { key, method, path, headers, body } = given;
        const answer = await client.proxy(key, { method, path, headers, body });
        return [answer.status, new TextDecoder().decode(answer.body)];
      }
      case "sessions":
        // Sorted: which of two that began in one second is the older one is nobody's to say.
        return (await client.sessions()).map((each) => [each.device, each.current]).sort();
      case "end_other_sessions":
        return client.endOtherSessions();
      case "logout":
        return client.logout();
      default:
        throw new Error(`no such step: ${name}`);
    }
  }
}
