# ruff: noqa
# fmt: off
# Kept as it came, byte for byte below this line, so that a newer copy can replace it.
"""MiniHub: a loopback Hugging Face Hub for tests, standard library and PyYAML only.

    with MiniHub() as hub:                      # 127.0.0.1, two free ports: the Hub and its "CDN"
        api = HfApi(endpoint=hub.url, token=hub.token("alice"))

    python minihub.py --port 8090               # prints HF_ENDPOINT and the tokens, serves until interrupted

It speaks what `huggingface_hub` 2.x speaks with Xet off (HF_HUB_DISABLE_XET=1, read at import): repositories, preupload, LFS batch (basic and
multipart), commits, pull requests, branches, tags, tree, paths-info, resolve with ranges, gating, and the Hub's own error headers. Blobs, LFS
objects and commits are content addressed as in git: a file's ETag depends on the revision asked for, commit ids are 40 hex digits.

Faults are armed from the test: `hub.fault(path="/lfs/", cut=1000)` breaks the next matching response after 1000 bytes (FIN, or RST with
`hub.reset = True`), `hub.fault(path="/commit/", status=500, times=2)` answers 500 twice. `hub.log` holds every request.
"""

import argparse
import base64
import fnmatch
import hashlib
import hmac
import json
import math
import re
import secrets
import socket
import struct
import threading
import time
from dataclasses import dataclass, field
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, quote, unquote, urlsplit

import yaml

LFS_LIMIT = 10 * 1024 * 1024
GITATTRIBUTES = "".join(f"*.{ext} filter=lfs diff=lfs merge=lfs -text\n" for ext in
                        "7z arrow bin bz2 ckpt ftz gz h5 joblib lz4 mlmodel model msgpack npy npz onnx ot parquet pb pickle pkl pt pth rar safetensors tar tflite tgz wasm xz zip zst".split())
LICENSES = set("apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc lppl-1.3c ms-pl apple-ascl mpl-2.0 odc-by odbl openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr deepfloyd-if-license llama2 llama3 gemma unknown other".split())
PIPELINE_TAGS = set("image-classification object-detection image-segmentation image-feature-extraction depth-estimation mask-generation zero-shot-image-classification zero-shot-object-detection image-to-image image-to-text image-text-to-text video-classification keypoint-detection feature-extraction text-classification token-classification fill-mask text-generation other".split())


def now():
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def git_blob(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def pointer(sha256: str, size: int) -> bytes:
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


@dataclass(frozen=True)
class Entry:
    oid: str  # git blob id, of the LFS pointer when `sha256` is set
    size: int
    sha256: str | None = None

    @property
    def etag(self):
        return self.sha256 or self.oid

    def tree_item(self, path):
        item = {"type": "file", "oid": self.oid, "size": self.size, "path": path}
        if self.sha256:
            item["lfs"] = {"oid": self.sha256, "size": self.size, "pointerSize": len(pointer(self.sha256, self.size))}
        return item


@dataclass(frozen=True)
class Commit:
    id: str
    parents: tuple[str, ...]
    tree: dict
    title: str
    message: str
    author: str
    date: str


@dataclass
class Discussion:
    num: int
    title: str
    author: str
    pull_request: bool
    base: str | None = None
    status: str = "open"
    created: str = field(default_factory=now)
    events: list = field(default_factory=list)
    merge_commit: str | None = None

    def event(self, kind, author, data):
        self.events.append({"id": secrets.token_hex(12), "type": kind, "createdAt": now(), "author": {"name": author}, "data": data})

    def summary(self, repo):
        return {"num": self.num, "title": self.title, "author": {"name": self.author}, "createdAt": self.created, "status": self.status,
                "isPullRequest": self.pull_request, "repo": {"name": repo.id, "type": repo.type}, "repoOwner": {"name": repo.id.split("/")[0]}, "numComments": len(self.events)}


@dataclass
class Repo:
    id: str
    type: str
    private: bool = False
    gated: object = False
    granted: set = field(default_factory=set)
    created: str = field(default_factory=now)
    refs: dict = field(default_factory=dict)
    commits: dict = field(default_factory=dict)
    discussions: list = field(default_factory=list)

    def commit(self, ref, tree, title, message, author, parents=None):
        parents = parents if parents is not None else ((self.refs[ref],) if ref in self.refs else ())
        body = json.dumps([self.id, parents, title, message, author, sorted((p, e.oid, e.sha256) for p, e in tree.items()), time.time_ns()])
        made = Commit(hashlib.sha1(body.encode()).hexdigest(), tuple(parents), dict(tree), title, message, author, now())
        self.commits[made.id] = made
        self.refs[ref] = made.id
        return made

    def find(self, revision):
        for ref in (f"refs/heads/{revision}", f"refs/tags/{revision}", revision):
            if ref in self.refs:
                return self.commits[self.refs[ref]]
        if re.fullmatch(r"[0-9a-f]{7,40}", revision):
            found = [c for i, c in self.commits.items() if i.startswith(revision)]
            if len(found) == 1:
                return found[0]
        raise Problem(404, "RevisionNotFound", f"Invalid rev id: {revision}")

    def history(self, commit):
        while commit:
            yield commit
            commit = self.commits[commit.parents[0]] if commit.parents else None


@dataclass
class Token:
    user: str
    role: str = "write"


@dataclass
class Request:
    method: str
    path: str
    query: dict
    headers: dict
    origin: str
    status: int = 0


@dataclass
class Fault:
    path: str
    method: str | None
    status: int | None
    cut: int | None
    times: int
    headers: dict


class Problem(Exception):
    def __init__(self, status, code=None, message="", headers=None):
        self.status, self.code, self.message, self.headers = status, code, message, headers or {}


class MiniHub:
    def __init__(self, port=0, users=("alice", "bob"), orgs=None, lfs_chunk=None):
        """`orgs`: {name: members}. `lfs_chunk`: LFS objects above this many bytes are uploaded in parts of that size."""
        self.lock = threading.RLock()
        self.repos, self.blobs, self.lfs, self.parts = {}, {}, {}, {}
        self.tokens = {f"hf_{u}": Token(u) for u in users} | {f"hf_{u}_read": Token(u, "read") for u in users}
        self.orgs, self.lfs_chunk, self.key = orgs or {}, lfs_chunk, secrets.token_bytes(16)
        self.log, self.faults, self.reset, self.connections = [], [], False, set()
        self.servers = [ThreadingHTTPServer(("127.0.0.1", p), handler(self, origin)) for p, origin in ((port, "hub"), (0, "cdn"))]
        self.url, self.cdn = (f"http://127.0.0.1:{s.server_port}" for s in self.servers)

    def start(self):
        for server in self.servers:
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def stop(self):
        for server in self.servers:
            server.shutdown()
            server.server_close()
        for connection in list(self.connections):  # kept-alive ones too: a stopped Hub answers nobody
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    __enter__ = start

    def __exit__(self, *_):
        self.stop()

    # what a test reaches for
    def token(self, user="alice", role="write"):
        return f"hf_{user}" if role == "write" else f"hf_{user}_{role}"

    def fault(self, path, method=None, status=None, cut=None, times=1, headers=None):
        self.faults.append(Fault(path, method, status, cut, times, headers or {}))

    def requests(self, method=None, path=""):
        return [r for r in self.log if (method is None or r.method == method) and path in r.path]

    def read(self, repo_id, path, revision="main", type="model"):
        entry = self.repos[(type, repo_id)].find(revision).tree[path]
        return self.lfs[entry.sha256] if entry.sha256 else self.blobs[entry.oid]

    # rights
    def owns(self, user, repo_id):
        namespace = repo_id.split("/")[0]
        return user is not None and (namespace == user or user in self.orgs.get(namespace, ()))

    def repo(self, type, repo_id, user, files=False):
        repo = self.repos.get((type, repo_id))
        if repo is None or (repo.private and not self.owns(user, repo_id)):
            raise Problem(401 if user is None else 404, "RepoNotFound", "Repository not found")
        if files and repo.gated and not self.owns(user, repo_id) and user not in repo.granted:
            who = "You must have access to it and be authenticated to access it. Please log in." if user is None else f"Your request to access model {repo_id} is awaiting a review from the repo authors."
            raise Problem(401 if user is None else 403, "GatedRepo", f"Access to model {repo_id} is restricted. {who}")
        return repo

    def writable(self, type, repo_id, token, pull_request=False):
        if token is None:
            raise Problem(401, None, "Invalid username or password.")
        repo = self.repo(type, repo_id, token.user)
        if token.role != "write":
            raise Problem(403, None, "Forbidden: you must use a write token to upload to a repository.")
        if not (self.owns(token.user, repo_id) or pull_request):
            raise Problem(403, None, f"Forbidden: pass `create_pr=1` as a query parameter to create a Pull Request. You don't have the rights to write to {repo_id}.")
        return repo

    # content
    def sign(self, path):
        return f"{self.cdn}{path}?sig={hmac.new(self.key, path.encode(), 'sha256').hexdigest()}"

    def add_file(self, data: bytes, lfs=False):
        if lfs:
            sha256 = hashlib.sha256(data).hexdigest()
            self.lfs[sha256] = data
            return Entry(git_blob(pointer(sha256, len(data))), len(data), sha256)
        oid = git_blob(data)
        self.blobs[oid] = data
        return Entry(oid, len(data))

    def text(self, tree, path):
        entry = tree.get(path)
        return self.blobs[entry.oid].decode("utf-8", "replace") if entry and not entry.sha256 else ""

    def upload_mode(self, tree, path, size, sample):
        for line in self.text(tree, ".gitattributes").splitlines():
            pattern, *attributes = line.split() or [""]
            if "filter=lfs" in attributes and (fnmatch.fnmatch(path, pattern) or fnmatch.fnmatch(path.rsplit("/", 1)[-1], pattern)):
                return "lfs"
        return "lfs" if size >= LFS_LIMIT or b"\0" in sample else "regular"

    def info(self, repo, commit, blobs):
        card, errors, _ = front_matter(self.text(commit.tree, "README.md"))
        try:
            config = json.loads(self.text(commit.tree, "config.json") or "{}")
        except ValueError:
            config = {}
        tags = [*card.get("tags", [])] if isinstance(card.get("tags"), list) else []
        tags += [t for t in (card.get("library_name"), card.get("pipeline_tag"), "safetensors" if any(p.endswith(".safetensors") for p in commit.tree) else None,
                             "custom_code" if "auto_map" in config else None, f"license:{card['license']}" if "license" in card else None) if t and t not in tags]
        siblings = []
        for path, entry in sorted(commit.tree.items()):
            item = {"rfilename": path}
            if blobs:
                item |= {"size": entry.size, "blobId": entry.oid}
                if entry.sha256:
                    item["lfs"] = {"size": entry.size, "sha256": entry.sha256, "pointerSize": len(pointer(entry.sha256, entry.size))}
            siblings.append(item)
        info = {"_id": repo.commits and next(iter(repo.commits))[:24], "id": repo.id, "modelId": repo.id, "author": repo.id.split("/")[0], "sha": commit.id, "lastModified": commit.date, "createdAt": repo.created,
                "private": repo.private, "gated": repo.gated, "disabled": False, "downloads": 0, "likes": 0, "tags": tags, "pipeline_tag": card.get("pipeline_tag"),
                "library_name": card.get("library_name"), "cardData": card, "siblings": siblings, "spaces": [], "usedStorage": sum(e.size for e in commit.tree.values()),
                "config": {k: config[k] for k in ("architectures", "model_type", "auto_map") if k in config}}
        if "model-index" in card:
            info["model-index"] = card["model-index"]
        if "auto_map" in config:
            first = next((k for k in config["auto_map"] if k.startswith("AutoModel")), "AutoModel")
            info["transformersInfo"] = {"auto_model": first, "custom_class": config["auto_map"].get(first), "pipeline_tag": card.get("pipeline_tag")}
        counts = self.parameters(commit.tree)
        if counts:
            info["safetensors"] = {"parameters": counts, "total": sum(counts.values())}
        return info

    def parameters(self, tree):
        counts = {}
        for path, entry in tree.items():
            if path.endswith(".safetensors") and entry.sha256:
                data = self.lfs[entry.sha256]
                try:
                    header = json.loads(data[8:8 + int.from_bytes(data[:8], "little")])
                except ValueError:
                    continue
                for name, tensor in header.items():
                    if name != "__metadata__":
                        counts[tensor["dtype"]] = counts.get(tensor["dtype"], 0) + math.prod(tensor["shape"])
        return counts

    def apply(self, tree, lines):
        """The ndjson of a commit onto a tree: (header, new tree)."""
        tree, header = dict(tree), {}
        for line in lines:
            key, value = line["key"], line["value"]
            path = value.get("path", "")
            if key == "header":
                header = value
                continue
            if path.startswith("/") or ".." in path.split("/") or not path:
                raise Problem(400, None, f"Invalid path: {path!r}")
            if key == "file":
                data = base64.b64decode(value["content"])
                if len(data) > LFS_LIMIT:
                    raise Problem(413, None, f"File {path} is larger than 10 MiB: use LFS")
                if re.search(r"(^|/)\.git(/|$)", path):
                    raise Problem(400, None, f"Invalid path: {path!r}")
                tree[path] = self.add_file(data)
            elif key == "lfsFile":
                if value["oid"] not in self.lfs:
                    raise Problem(400, None, f"LFS object {value['oid']} was never uploaded")
                tree[path] = self.add_file(self.lfs[value["oid"]], lfs=True)
            elif key == "deletedFile":
                if tree.pop(path, None) is None:
                    raise Problem(404, "EntryNotFound", f"A file with the name \"{path}\" does not exist")
            elif key == "deletedFolder":
                for name in [n for n in tree if n.startswith(path.rstrip("/") + "/")]:
                    del tree[name]
            else:
                raise Problem(400, None, f"Unknown operation {key}")
        return header, tree


def front_matter(text):
    """(metadata, errors, warnings) of a model card."""
    found = re.match(r"\s*---\r?\n(.*?)\r?\n?---\s*(\r?\n|$)", text, re.S)
    if not found or not found[1].strip():
        return {}, [], ["empty or missing yaml metadata in repo card"]
    try:
        data = yaml.safe_load(found[1])
    except yaml.YAMLError as e:
        return {}, [f"invalid YAML: {str(e).splitlines()[0]}"], []
    if not isinstance(data, dict):
        return {}, ["metadata must be a mapping"], []
    errors, warnings = [], []
    for name in [data["license"]] if isinstance(data.get("license"), str) else data.get("license") or []:
        if name not in LICENSES:
            errors.append(f'"license" must be one of {sorted(LICENSES)[:3]}..., got {name!r}')
    if data.get("license") == "other" and not (data.get("license_name") and data.get("license_link")):
        warnings.append('"license: other" should come with "license_name" and "license_link"')
    if "pipeline_tag" in data and data["pipeline_tag"] not in PIPELINE_TAGS:
        warnings.append(f'"pipeline_tag" {data["pipeline_tag"]!r} is not in the official list')
    for key in ("tags", "datasets", "metrics"):
        if key in data and not (isinstance(data[key], list) and all(isinstance(t, str) for t in data[key])):
            errors.append(f'"{key}" must be an array of strings')
    if "model-index" in data:
        index = data["model-index"]
        if not (isinstance(index, list) and all(isinstance(m, dict) and "name" in m and isinstance(m.get("results"), list) for m in index)):
            errors.append('"model-index" must be a list of {name, results}')
        else:
            for result in (r for m in index for r in m["results"]):
                if not isinstance(result, dict) or not isinstance(result.get("task"), dict) or "type" not in result["task"]:
                    errors.append('"model-index[].results[].task.type" is required')
                elif not isinstance(result.get("dataset"), dict) or not {"type", "name"} <= set(result["dataset"]):
                    errors.append('"model-index[].results[].dataset.type" and "name" are required')
                elif not all(isinstance(m, dict) and "type" in m and "value" in m for m in result.get("metrics") or [None]):
                    errors.append('"model-index[].results[].metrics[]" needs "type" and "value"')
    return data, errors, warnings


ROUTES = []


def route(method, pattern):
    regex = re.compile("^" + re.sub(r"\{(\w+)(:[^}]+)?\}", lambda m: f"(?P<{m[1]}>{(m[2] or ':[^/]+')[1:]})", pattern) + "$")
    return lambda f: ROUTES.append((method, regex, f)) or f


REPO = "/api/{type:model|dataset|space}s/{id:[^/]+/[^/]+}"


@route("GET", "/api/whoami-v2")
def whoami(hub, r):
    if r.token is None:
        raise Problem(401, None, "Invalid username or password.")
    return {"type": "user", "id": r.token.user, "name": r.token.user, "fullname": r.token.user.title(), "email": f"{r.token.user}@example.com", "emailVerified": True, "canPay": False, "isPro": False,
            "orgs": [{"type": "org", "name": o, "fullname": o, "roleInOrg": "admin"} for o, members in hub.orgs.items() if r.token.user in members],
            "auth": {"type": "access_token", "accessToken": {"displayName": "test", "role": r.token.role, "createdAt": now()}}}


@route("POST", "/api/repos/create")
def create_repo(hub, r):
    if r.token is None:
        raise Problem(401, None, "Invalid username or password.")
    body = r.json()
    type, repo_id = body.get("type", "model"), f"{body.get('organization') or r.token.user}/{body['name']}"
    if r.token.role != "write" or not hub.owns(r.token.user, repo_id):
        raise Problem(403, None, f"You don't have the rights to create a {type} under the namespace \"{repo_id.split('/')[0]}\"")
    url = f"{hub.url}/{'' if type == 'model' else type + 's/'}{repo_id}"
    if (type, repo_id) in hub.repos:
        raise Problem(409, None, "You already created this model repo", {"body": {"error": "You already created this model repo", "url": url}})
    repo = hub.repos[(type, repo_id)] = Repo(repo_id, type, private=body.get("visibility") == "private" or bool(body.get("private")))
    repo.commit("refs/heads/main", {".gitattributes": hub.add_file(GITATTRIBUTES.encode())}, "initial commit", "", r.token.user)
    return {"url": url, "name": repo_id, "id": repo_id}


@route("DELETE", "/api/repos/delete")
def delete_repo(hub, r):
    body = r.json()
    repo = hub.writable(body.get("type", "model"), f"{body.get('organization') or (r.token and r.token.user)}/{body['name']}", r.token)
    del hub.repos[(repo.type, repo.id)]
    return {}


@route("PUT", REPO + "/settings")
def settings(hub, r, type, id):
    repo, body = hub.writable(type, id, r.token), r.json()
    repo.gated = body.get("gated", repo.gated)
    if "visibility" in body or "private" in body:
        repo.private = body.get("visibility") == "private" or bool(body.get("private"))
    return {"gated": repo.gated, "private": repo.private}


@route("POST", REPO + "/user-access-request/grant")
def grant(hub, r, type, id):
    hub.writable(type, id, r.token).granted.add(r.json()["user"])
    return {}


@route("GET", REPO + "/auth-check(?P<write>/write)?")
def auth_check(hub, r, type, id, write=None):
    hub.writable(type, id, r.token) if write else hub.repo(type, id, r.user, files=True)
    return {}


@route("POST", "/api/validate-yaml")
def validate_yaml(hub, r):
    _, errors, warnings = front_matter(r.json()["content"])
    body = {"errors": [{"message": e} for e in errors], "warnings": [{"message": w} for w in warnings]}
    if errors:
        raise Problem(400, None, errors[0], {"body": body | {"error": errors[0]}})
    return body


@route("GET", "/api/{type:model|dataset|space}s")
def list_repos(hub, r, type):
    author, search = r.arg("author"), (r.arg("search") or "").lower()
    return [hub.info(repo, repo.find("main"), False) for (t, _), repo in sorted(hub.repos.items())
            if t == type and (not author or repo.id.split("/")[0] == author) and search in repo.id.lower() and (not repo.private or hub.owns(r.user, repo.id))]


@route("GET", REPO + "(?:/revision/(?P<revision>.+))?")
def info(hub, r, type, id, revision=None):
    repo = hub.repo(type, id, r.user)
    return hub.info(repo, repo.find(revision or "main"), r.arg("blobs") in ("true", "True", "1"))


@route("GET", REPO + "/refs")
def refs(hub, r, type, id):
    repo = hub.repo(type, id, r.user)
    named = lambda prefix: [{"name": ref.removeprefix(prefix) if "pr" not in prefix else ref, "ref": ref, "targetCommit": sha} for ref, sha in repo.refs.items() if ref.startswith(prefix)]
    return {"branches": named("refs/heads/"), "tags": named("refs/tags/"), "converts": [], "pullRequests": named("refs/pr/") if r.arg("include_prs") else []}


@route("GET", REPO + "/commits/{revision:.+}")
def commits(hub, r, type, id, revision):
    repo = hub.repo(type, id, r.user)
    return [{"id": c.id, "title": c.title, "message": c.message, "authors": [{"user": c.author}], "date": c.date} for c in repo.history(repo.find(revision))]


@route("GET", REPO + "/tree/{revision:[^/]+|refs/(?:pr|heads|tags)/[^/]+}(?:/(?P<folder>.*))?")
def tree(hub, r, type, id, revision, folder=None):
    repo = hub.repo(type, id, r.user)
    commit, folder = repo.find(revision), (folder or "").strip("/")
    prefix = folder + "/" if folder else ""
    inside = {p: e for p, e in commit.tree.items() if p.startswith(prefix)}
    if folder and not inside:
        raise Problem(404, "EntryNotFound", f"{folder} does not exist on \"{revision}\"")
    folders = sorted({prefix + "/".join(parts[:n]) for p in inside for parts in [p[len(prefix):].split("/")] for n in range(1, len(parts))})
    recursive = r.arg("recursive") in ("true", "True", "1")
    out = [{"type": "directory", "oid": hashlib.sha1(f.encode()).hexdigest(), "size": 0, "path": f} for f in folders if recursive or "/" not in f[len(prefix):]]
    out += [e.tree_item(p) for p, e in sorted(inside.items()) if recursive or "/" not in p[len(prefix):]]
    if r.arg("expand") in ("true", "True", "1"):
        for item in out:
            item["lastCommit"] = {"id": commit.id, "title": commit.title, "date": commit.date}
    return out


@route("POST", REPO + "/paths-info/{revision:.+}")
def paths_info(hub, r, type, id, revision):
    commit = hub.repo(type, id, r.user).find(revision)
    out = []
    for path in r.form().get("paths", []):
        if path in commit.tree:
            out.append(commit.tree[path].tree_item(path))
        elif any(p.startswith(path.rstrip("/") + "/") for p in commit.tree):
            out.append({"type": "directory", "oid": hashlib.sha1(path.encode()).hexdigest(), "size": 0, "path": path})
    return out


@route("POST", REPO + "/preupload/{revision:.+}")
def preupload(hub, r, type, id, revision):
    repo, body = hub.writable(type, id, r.token, pull_request=bool(r.arg("create_pr"))), r.json()
    commit = repo.find(revision)
    ignored = (body.get("gitIgnore") or hub.text(commit.tree, ".gitignore")).split()
    return {"files": [{"path": f["path"], "uploadMode": hub.upload_mode(commit.tree, f["path"], f["size"], base64.b64decode(f["sample"])),
                       "shouldIgnore": any(fnmatch.fnmatch(f["path"], p) for p in ignored), "oid": commit.tree[f["path"]].etag if f["path"] in commit.tree else None} for f in body["files"]],
            "commitOid": commit.id}


@route("POST", "/(?P<prefix>datasets/|spaces/)?{id:[^/]+/[^/]+}.git/info/lfs/objects/batch")
def lfs_batch(hub, r, id, prefix=None):
    if r.token is None:
        raise Problem(401, None, "Invalid username or password.")
    hub.repo((prefix or "models/")[:-2], id, r.user)
    out = []
    for item in r.json()["objects"]:
        oid, size = item["oid"], item["size"]
        if oid in hub.lfs:
            out.append({"oid": oid, "size": size})
            continue
        upload = {"href": hub.sign(f"/lfs/{oid}")}
        if hub.lfs_chunk and size > hub.lfs_chunk:
            header = {str(n + 1): hub.sign(f"/parts/{oid}/{n + 1}") for n in range(math.ceil(size / hub.lfs_chunk))}
            upload = {"href": f"{hub.url}/lfs-complete/{oid}", "header": {"chunk_size": str(hub.lfs_chunk), **header}}
        out.append({"oid": oid, "size": size, "actions": {"upload": upload, "verify": {"href": f"{hub.url}/{id}.git/info/lfs/verify", "header": {}}}})
    return {"transfer": "basic", "objects": out}


@route("POST", "/{id:[^/]+/[^/]+}.git/info/lfs/verify")
def lfs_verify(hub, r, id):
    body = r.json()
    if len(hub.lfs.get(body["oid"], b"")) != body["size"]:
        raise Problem(404, None, "LFS object not found or of another size")
    return {}


@route("POST", "/lfs-complete/{oid}")
def lfs_complete(hub, r, oid):
    parts = hub.parts.pop(oid, {})
    return store_lfs(hub, oid, b"".join(parts[p["partNumber"]] for p in r.json()["parts"]))


def store_lfs(hub, oid, data):
    if hashlib.sha256(data).hexdigest() != oid:
        raise Problem(400, None, "the content does not match its sha256")
    hub.lfs[oid] = data
    return {}


@route("POST", REPO + "/commit/{revision:.+}")
def commit(hub, r, type, id, revision):
    pull_request = bool(r.arg("create_pr"))
    repo = hub.writable(type, id, r.token, pull_request=pull_request)
    own = re.fullmatch(r"refs/pr/(\d+)", revision)
    if own and repo.discussions[int(own[1]) - 1].status not in ("open", "draft"):
        raise Problem(403, None, "This pull request is closed")
    parent = repo.find(revision)
    header, new = hub.apply(parent.tree, [json.loads(line) for line in r.body.splitlines() if line.strip()])
    if "README.md" in new and new["README.md"] != parent.tree.get("README.md"):
        errors = front_matter(hub.text(new, "README.md"))[1]
        if errors:
            raise Problem(400, None, f"Invalid metadata in README.md: {errors[0]}")
    expected = header.get("parentCommit")
    if expected and not pull_request and not parent.id.startswith(expected):
        raise Problem(412, None, "A commit has happened since. Please refresh and try again.")
    ref = revision if own else f"refs/heads/{revision}"
    if not pull_request and ref not in repo.refs:
        raise Problem(400, None, f"{revision} is not a branch")
    url = f"{hub.url}/{id}"
    reply = {"success": True, "hookOutput": ""}
    if pull_request:
        if header.get("summary", "") == "":
            raise Problem(400, None, "A title is required")
        talk = Discussion(len(repo.discussions) + 1, header["summary"], r.user, True, base=parent.id)
        repo.discussions.append(talk)
        ref = f"refs/pr/{talk.num}"
        repo.refs[ref] = parent.id
        reply["pullRequestUrl"] = f"{url}/discussions/{talk.num}"
    elif own:
        talk = repo.discussions[int(own[1]) - 1]
    made = repo.commit(ref, new, header.get("summary", ""), header.get("description", ""), r.user)
    if pull_request or own:
        talk.event("commit", r.user, {"subject": made.title, "oid": made.id})
    return reply | {"commitOid": made.id, "commitUrl": f"{url}/commit/{made.id}"}


@route("POST", REPO + "/branch/{name:.+}")
def create_branch(hub, r, type, id, name):
    repo, body = hub.writable(type, id, r.token), r.json()
    if f"refs/heads/{name}" in repo.refs:
        raise Problem(409, None, f"Reference already exists: refs/heads/{name}")
    repo.refs[f"refs/heads/{name}"] = repo.find(body.get("startingPoint") or "main").id
    return {}


@route("POST", REPO + "/tag/{revision:.+}")
def create_tag(hub, r, type, id, revision):
    repo, body = hub.writable(type, id, r.token), r.json()
    if f"refs/tags/{body['tag']}" in repo.refs:
        raise Problem(409, None, f"Tag reference exists already: {body['tag']}")
    repo.refs[f"refs/tags/{body['tag']}"] = repo.find(revision).id
    return {}


@route("DELETE", REPO + "/{kind:branch|tag}/{name:.+}")
def delete_ref(hub, r, type, id, kind, name):
    repo = hub.writable(type, id, r.token)
    if repo.refs.pop(f"refs/{'heads' if kind == 'branch' else 'tags'}/{name}", None) is None:
        raise Problem(404, "RevisionNotFound", f"Invalid rev id: {name}")
    return {}


@route("POST", REPO + "/super-squash/{branch:.+}")
def super_squash(hub, r, type, id, branch):
    repo = hub.writable(type, id, r.token)
    repo.commit(f"refs/heads/{branch}", repo.find(branch).tree, r.json().get("message") or "Super-squash branch", "", r.user, parents=())
    return {}


@route("GET", REPO + "/discussions")
def discussions(hub, r, type, id):
    repo = hub.repo(type, id, r.user)
    kept = [d.summary(repo) for d in reversed(repo.discussions)
            if (r.arg("type") in (None, "all") or d.pull_request == (r.arg("type") == "pull_request")) and (r.arg("status") in (None, "all") or (d.status in ("open", "draft")) == (r.arg("status") == "open"))]
    return {"discussions": kept if r.arg("p") in (None, "0") else [], "count": len(kept), "start": 0}


@route("POST", REPO + "/discussions")
def open_discussion(hub, r, type, id):
    if r.token is None:
        raise Problem(401, None, "Invalid username or password.")
    repo, body = hub.repo(type, id, r.user), r.json()
    talk = Discussion(len(repo.discussions) + 1, body["title"], r.user, bool(body.get("pullRequest")), status="draft" if body.get("pullRequest") else "open")
    if talk.pull_request:
        talk.base = repo.find("main").id
        repo.refs[f"refs/pr/{talk.num}"] = talk.base
    talk.event("comment", r.user, comment(body.get("description") or ""))
    repo.discussions.append(talk)
    return {"num": talk.num, "url": f"{hub.url}/{id}/discussions/{talk.num}", "pullRequest": talk.pull_request}


def comment(text):
    return {"edited": False, "hidden": False, "latest": {"raw": text, "html": text, "updatedAt": now()}}


def talk_of(repo, num):
    if not 0 < int(num) <= len(repo.discussions):
        raise Problem(404, None, "Discussion not found")
    return repo.discussions[int(num) - 1]


@route("GET", REPO + r"/discussions/{num:\d+}")
def discussion(hub, r, type, id, num):
    repo = hub.repo(type, id, r.user)
    talk = talk_of(repo, num)
    out = talk.summary(repo) | {"events": talk.events, "filesWithConflicts": []}
    if talk.pull_request:
        base, head = repo.commits[talk.base].tree, repo.find(f"refs/pr/{num}").tree
        out |= {"changes": {"base": "refs/heads/main", "mergeCommitId": talk.merge_commit}, "filesWithConflicts": conflicts(repo, talk),
                "diff": "".join(f"diff --git a/{p} b/{p}\n" for p in sorted({*base, *head}) if base.get(p) != head.get(p))}
    return out


def conflicts(repo, talk):
    base, head, main = repo.commits[talk.base].tree, repo.find(f"refs/pr/{talk.num}").tree, repo.find("main").tree
    return sorted(p for p in {*base, *head} if base.get(p) != head.get(p) and main.get(p) not in (base.get(p), head.get(p)))


@route("POST", REPO + r"/discussions/{num:\d+}/{action:merge|status|comment|title}")
def act(hub, r, type, id, num, action):
    repo = hub.repo(type, id, r.user)
    talk, body = talk_of(repo, num), r.json() or {}
    if r.token is None:
        raise Problem(401, None, "Invalid username or password.")
    if action in ("merge", "status") and not (hub.owns(r.user, id) or (action == "status" and r.user == talk.author)):
        raise Problem(403, None, f"You don't have the rights to {action} this.")
    if action == "comment":
        talk.event("comment", r.user, comment(body["comment"]))
    elif action == "title":
        talk.event("title-change", r.user, {"from": talk.title, "to": body["title"]})
        talk.title = body["title"]
    elif action == "status":
        talk.status = body["status"]
        talk.event("status-change", r.user, {"status": talk.status})
    else:
        if talk.status != "open":
            raise Problem(400, None, f"This pull request is {talk.status}: it cannot be merged")
        if conflicts(repo, talk):
            raise Problem(409, None, "This pull request has conflicts")
        base, head, merged = repo.commits[talk.base].tree, repo.find(f"refs/pr/{num}").tree, dict(repo.find("main").tree)
        for path in {*base, *head}:
            if base.get(path) != head.get(path):
                merged.pop(path, None) if path not in head else merged.update({path: head[path]})
        talk.merge_commit = repo.commit("refs/heads/main", merged, f"{talk.title} (#{num})", body.get("comment", ""), r.user).id
        talk.status = "merged"
        talk.event("status-change", r.user, {"status": "merged"})
    return {"newStatus": {"status": talk.status}, "newMessage": talk.events[-1], "newTitle": talk.events[-1]}


@route("GET", "/(?P<prefix>datasets/|spaces/)?{id:[^/]+/[^/]+}/resolve/{revision:refs/(?:pr|heads|tags)/[^/]+|[^/]+}/{path:.+}")
def resolve(hub, r, id, revision, path, prefix=None):
    repo = hub.repo((prefix or "models/")[:-2], id, r.user, files=True)
    commit = repo.find(revision)
    entry, headers = commit.tree.get(path), {"X-Repo-Commit": commit.id, "Accept-Ranges": "bytes"}
    if entry is None:
        raise Problem(404, "EntryNotFound", "Entry not found", headers)
    if entry.sha256:
        return Redirect(hub.sign(f"/lfs/{entry.sha256}"), headers | {"X-Linked-Size": str(entry.size), "X-Linked-ETag": f'"{entry.sha256}"', "ETag": f'"{entry.oid}"'})
    return Bytes(hub.blobs[entry.oid], headers | {"ETag": f'"{entry.oid}"', "Content-Disposition": f"inline; filename*=UTF-8''{quote(path.rsplit('/', 1)[-1])}"})


@dataclass
class Bytes:
    data: bytes
    headers: dict


@dataclass
class Redirect:
    location: str
    headers: dict


@dataclass
class Incoming:
    path: str
    query: dict
    headers: object
    body: bytes
    token: Token | None

    @property
    def user(self):
        return self.token.user if self.token else None

    def json(self):
        try:
            return json.loads(self.body or b"null")
        except ValueError:
            raise Problem(400, None, "Invalid JSON body")

    def form(self):
        return parse_qs(self.body.decode()) if "json" not in self.headers.get("Content-Type", "") else self.json()

    def arg(self, name):
        return self.query.get(name, [None])[0]


def handler(hub, origin):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # headers and body are two writes: 40 ms each otherwise

        def setup(self):
            super().setup()
            hub.connections.add(self.connection)

        def finish(self):
            hub.connections.discard(self.connection)
            super().finish()

        def log_message(self, *_):
            pass

        def body(self):
            if "chunked" in self.headers.get("Transfer-Encoding", ""):
                out = b""
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    out += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return out
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def answer(self):
            body = self.body()
            split = urlsplit(self.path)
            seen = Request(self.command, unquote(split.path), parse_qs(split.query), dict(self.headers), origin)
            hub.log.append(seen)
            fault = next((f for f in hub.faults if f.path in seen.path and f.method in (None, self.command)), None)
            if fault:
                fault.times -= 1
                if fault.times <= 0:
                    hub.faults.remove(fault)
            try:
                if fault and fault.status:
                    raise Problem(fault.status, None, "injected fault", fault.headers)
                serve = self.cdn if origin == "cdn" else self.hub
                with hub.lock:
                    reply = serve(split, body)
                self.send(seen, reply, fault)
            except Problem as p:
                data = json.dumps(p.headers.pop("body", {"error": p.message})).encode()
                headers = {"Content-Type": "application/json; charset=utf-8", **p.headers, "X-Error-Message": p.message}
                if p.code:
                    headers["X-Error-Code"] = p.code
                self.write(seen, p.status, headers, data)

        do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = answer

        def authorize(self):
            header = self.headers.get("Authorization")
            if header is None:
                return None
            token = hub.tokens.get(header.removeprefix("Bearer "))
            if token is None:
                raise Problem(401, None, "Invalid credentials in Authorization header")
            return token

        def hub(self, split, body):
            incoming = Incoming(unquote(split.path), parse_qs(split.query), self.headers, body, self.authorize())
            method = "GET" if self.command == "HEAD" else self.command
            for verb, regex, function in ROUTES:
                found = verb == method and regex.match(incoming.path)
                if found:
                    return function(hub, incoming, **{k: v for k, v in found.groupdict().items() if v is not None})
            raise Problem(404, None, f"MiniHub has no {self.command} {split.path}")

        def cdn(self, split, body):
            if f"{hub.cdn}{split.path}?{split.query}" != hub.sign(split.path):
                raise Problem(403, None, "bad signature")
            _, kind, oid, *part = split.path.split("/")
            if self.command == "PUT" and kind == "lfs":
                return store_lfs(hub, oid, body)
            if self.command == "PUT":
                hub.parts.setdefault(oid, {})[int(part[0])] = body
                return Bytes(b"", {"ETag": f'"{hashlib.md5(body).hexdigest()}"'})
            if oid not in hub.lfs:
                raise Problem(404, None, "no such object")
            return Bytes(hub.lfs[oid], {"ETag": f'"{oid}"', "Accept-Ranges": "bytes"})

        def send(self, seen, reply, fault):
            if isinstance(reply, Redirect):
                return self.write(seen, 302, {**reply.headers, "Location": reply.location}, b"")
            if not isinstance(reply, Bytes):
                return self.write(seen, 200, {"Content-Type": "application/json; charset=utf-8"}, json.dumps(reply).encode())
            data, status, headers = reply.data, 200, dict(reply.headers)
            asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
            if asked and self.command == "GET":
                first, last = asked[1], asked[2]
                start = int(first) if first else max(0, len(data) - int(last))
                stop = min(int(last) + 1 if first and last else len(data), len(data))
                if start >= len(data):
                    raise Problem(416, None, "range not satisfiable", {"Content-Range": f"bytes */{len(data)}"})
                headers["Content-Range"], status = f"bytes {start}-{stop - 1}/{len(data)}", 206
                data = data[start:stop]
            self.write(seen, status, {"Content-Type": "application/octet-stream", **headers}, data, fault.cut if fault else None)

        def write(self, seen, status, headers, data, cut=None):
            seen.status = status
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, str(value).replace("\n", " "))
            self.send_header("Content-Length", str(len(data)))
            self.send_header("X-Request-Id", secrets.token_hex(8))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data if cut is None else data[:cut])
            if cut is not None:
                self.close_connection = True
                if hub.reset:  # RST instead of FIN
                    self.wfile.flush()
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    self.connection.close()

    return Handler


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=8090)
    parser.add_argument("--user", action="append", default=None)
    args = parser.parse_args()
    hub = MiniHub(port=args.port, users=tuple(args.user or ("alice", "bob"))).start()
    print(f"export HF_ENDPOINT={hub.url} HF_HUB_DISABLE_XET=1\ntokens: {' '.join(hub.tokens)}", flush=True)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        hub.stop()
