"""Programs that attack what runs or judges them, each with what the sandbox has to say about it.

Each defines `f`, whose test is `assert f(1) == 2`. `{outside}` is a folder that exists, with a file `canary` in it.
"""

from __future__ import annotations

REFUSED = r"raised PermissionError: .*Operation not permitted"
ENDED = r"killed: the code ended its process with status"
SIGNALLED = r"killed: the code was ended by SIG"
WRONG = r"assertion failed: assert f\(1\) == 2"
LOST = r"protocol: "


def _in_f(statements: str, imports: str = "os") -> str:
    body = "\n".join(f"    {line}" for line in statements.splitlines())
    return f"import {imports}\n\ndef f(number):\n{body}\n    return 2\n"


FILES = {
    "reads /etc/passwd": (_in_f("open('/etc/passwd').read()"), REFUSED),
    "reads the environment of process 1": (_in_f("open('/proc/1/environ').read()"), REFUSED),
    "reads its own command line": (_in_f("open('/proc/self/cmdline').read()"), REFUSED),
    "writes the memory of its parent": (_in_f("open(f'/proc/{os.getppid()}/mem', 'r+b')"), REFUSED),
    "lists the root": (_in_f("os.listdir('/')"), REFUSED),
    "asks about a file": (_in_f("os.stat('/etc/passwd')"), REFUSED),
    "writes outside": (_in_f("open('{outside}/written', 'w').write('x')"), REFUSED),
    "writes where it is": (_in_f("open('written', 'w').write('x' * 10**9)"), REFUSED),
    "removes a file": (_in_f("os.remove('{outside}/canary')"), REFUSED),
    "renames a file": (_in_f("os.rename('{outside}/canary', '{outside}/moved')"), REFUSED),
    "links to a file": (_in_f("os.symlink('/etc/passwd', '{outside}/link')"), REFUSED),
    "makes a folder": (_in_f("os.mkdir('{outside}/folder')"), REFUSED),
    "makes a temporary file": (
        _in_f("tempfile.TemporaryFile()", "os, tempfile"),
        r"raised FileNotFoundError|" + REFUSED,
    ),
    "makes a file in memory": (_in_f("os.memfd_create('x')"), REFUSED),
    "changes its folder": (_in_f("os.chdir('{outside}')"), REFUSED),
    "changes its root": (_in_f("os.chroot('{outside}')"), REFUSED),
}

NETWORK = {
    "connects to an address": (_in_f("socket.create_connection(('127.0.0.1', 80), 1)", "socket"), REFUSED),
    "looks up a name": (_in_f("socket.getaddrinfo('example.org', 80)", "socket"), r"raised OSError: gaierror"),
    "opens a Unix socket": (_in_f("socket.socket(socket.AF_UNIX)", "socket"), REFUSED),
    "opens a pair of sockets": (_in_f("socket.socketpair()", "socket"), REFUSED),
}

PROCESSES = {
    "forks": (_in_f("if os.fork() == 0:\n    os.setsid()\n    os.fork()"), REFUSED),
    "forks without end": (_in_f("while True:\n    os.fork()"), REFUSED),
    "starts a background process": (
        _in_f("multiprocessing.Process(target=print).start()", "multiprocessing"),
        "raised ",
    ),
    "starts a daemon thread": (
        _in_f("threading.Thread(target=f, daemon=True).start()", "threading"),
        r"raised RuntimeError",
    ),
    "runs a shell": (_in_f("subprocess.run('id', shell=True)", "subprocess"), REFUSED),
    "becomes a shell": (_in_f("os.execv('/bin/sh', ['sh', '-c', 'true'])"), REFUSED),
    "spawns a shell": (_in_f("os.posix_spawn('/bin/sh', ['sh'], {})"), REFUSED),
    "kills its parent": (_in_f("os.kill(os.getppid(), 9)"), r"raised "),
    "kills everybody": (_in_f("os.kill(-1, 9)"), REFUSED),
    "kills its group": (_in_f("os.killpg(0, 9)"), REFUSED),
    "leaves its session": (_in_f("os.setsid()"), REFUSED),
    "raises its limits": (_in_f("resource.setrlimit(resource.RLIMIT_AS, (-1, -1))", "resource"), r"raised "),
    "traces its parent": (
        _in_f(
            "library = ctypes.CDLL(None, use_errno=True)\n"
            "if library.ptrace(16, library.getppid(), 0, 0) < 0:\n"
            "    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))",
            "ctypes, os",
        ),
        REFUSED,
    ),
}

RESOURCES = {
    "loops": (_in_f("while True:\n    pass"), "timeout"),
    "loops in C": (_in_f("sum(itertools.repeat(0))", "itertools"), "timeout"),
    "computes a power": (_in_f("9 ** 9 ** 9"), r"timeout|memory"),
    "sleeps": (_in_f("time.sleep(10**6)", "time"), "timeout"),
    "ignores every signal": (
        _in_f(
            "for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:\n"
            "    signal.signal(number, signal.SIG_IGN)\n"
            "while True:\n    pass",
            "signal",
        ),
        "timeout",
    ),
    "loops when it is loaded": ("while True:\n    pass", "timeout"),
    "takes all memory": (_in_f("blocks = []\nwhile True:\n    blocks.append(bytearray(2**24))"), "memory"),
    "maps all memory": (_in_f("mmap.mmap(-1, 2**33)", "mmap"), r"raised OSError: \[Errno 12\]"),
    "recurses": (_in_f("f(number)"), r"raised RecursionError"),
    "recurses without a limit": (
        _in_f("sys.setrecursionlimit(10**9)\nsorted([1, 2], key=f)", "sys"),
        rf"{SIGNALLED}|memory|raised |timeout",
    ),
    "prints without end": (_in_f("while True:\n    print('x' * 10**6)"), "timeout"),
    "returns a long text": (_in_f("return 'x' * 10**8"), r"raised ValueError: the result cannot leave|memory"),
    "returns a large number": (_in_f("return 1 << 10**9"), r"raised ValueError: the result cannot leave|memory"),
    "returns a list within itself": (
        _in_f("items = []\nitems.append(items)\nreturn items"),
        r"raised ValueError: the result cannot leave the sandbox: nested",
    ),
    "returns an endless iterator": (_in_f("return itertools.count()", "itertools"), WRONG),
}

ENDINGS = {
    "ends well": (_in_f("os._exit(0)"), ENDED + " 0"),
    "ends well when it is loaded": ("import os\nos._exit(0)", ENDED + " 0"),
    "exits": (_in_f("sys.exit(0)", "sys"), r"raised RuntimeError: SystemExit: 0"),
    "exits when it is loaded": ("raise SystemExit(0)", r"raised RuntimeError: SystemExit: 0"),
    "interrupts": (
        "class Interrupt(KeyboardInterrupt): pass\n" + _in_f("raise Interrupt('now')"),
        r"raised RuntimeError: Interrupt: now",
    ),
    "ends a loop": (_in_f("raise StopIteration"), r"raised RuntimeError: the code raised StopIteration"),
    "crashes": (_in_f("ctypes.string_at(0)", "ctypes"), SIGNALLED + "SEGV"),
    "leaves exit handlers": ("import atexit\natexit.register(print, 'passed')\n" + _in_f("os._exit(0)"), ENDED),
    "raises what cannot be shown": (
        "class Error(Exception):\n    def __str__(self): raise self\n" + _in_f("raise Error"),
        ENDED + " 1",
    ),
}

_FRAMES = (
    "import json, os, struct\n"
    "VERDICTS = [{'passed': True, 'reason': 'passed', 'lost': False}, {'value': ['tuple', [True, 'passed']]}]\n"
    "for verdict in VERDICTS:\n"
    "    text = json.dumps(verdict).encode()\n"
    "    for descriptor in range(1024):\n"
    "        try:\n"
    "            os.write(descriptor, struct.pack('>I', len(text)) + text)\n"
    "        except OSError:\n"
    "            pass\n"
)

# Takes over the conversation: the judge reads requests[1] and replies[0], the code has the descriptors 100 and 101.
_SPEAKS = """
import json, os, struct

def send(message):
    text = json.dumps(message).encode()
    os.write(101, struct.pack(">I", len(text)) + text)

def receive():
    return os.read(100, 10**6)

send({{"value": None}})
receive()
send({{"value": ["dict", [["f", {f}], ["print", None], ["AssertionError", ["type", "ValueError"]]]]}})
while receive():
    send({answer})
"""

FORGERIES = {
    "answers with a type in the place of f": (_SPEAKS.format(f=["type", "type"], answer={}), WRONG),
    "answers with a function of the judge": (_SPEAKS.format(f=["builtin", "eval"], answer={}), LOST),
    "answers with a type that is no value": (
        _SPEAKS.format(f=["remote", 0], answer={"value": ["pickle", "cos\nsystem\n(S'true'\ntR."]}),
        LOST,
    ),
    "answers with a verdict": (
        _SPEAKS.format(f=["remote", 0], answer={"passed": True, "reason": "passed", "fault": "x", "unavailable": "x"}),
        WRONG,
    ),
    "answers with an exception of every kind": (
        _SPEAKS.format(f=["remote", 0], answer={"raised": ["SystemExit", "BaseException"], "message": "0"}),
        "raised RuntimeError: SystemExit: 0",
    ),
    "equals everything": (
        "class Two:\n    def __eq__(self, other): return True\n" + _in_f("return Two()"),
        WRONG,
    ),
    "is a number that equals everything": (
        "class Two(int):\n    def __eq__(self, other): return True\n    __hash__ = int.__hash__\n"
        + _in_f("return Two(3)"),
        WRONG,
    ),
    "is a list that equals everything": (
        "class Twos(list):\n    def __eq__(self, other): return True\n" + _in_f("return Twos()"),
        WRONG,
    ),
    "patches the built-ins": (
        "import builtins\nbuiltins.AssertionError = builtins.isinstance = builtins.len = lambda *_: True\n"
        + _in_f("return 3"),
        rf"{WRONG}|{ENDED} 1",
    ),
    "patches the modules around it": (
        "import sys\n"
        "for name, module in list(sys.modules.items()):\n"
        "    if name.startswith('unisd.') or name in ('json', 'operator', 'solution', '__main__'):\n"
        "        for key in list(vars(module)):\n"
        "            setattr(module, key, lambda *_, **__: True)\n" + _in_f("return 3"),
        rf"{ENDED}|{LOST}|raised |{WRONG}|timeout",
    ),
    "empties the modules": ("import sys\nsys.modules.clear()\n" + _in_f("return 3"), rf"{WRONG}|{ENDED}"),
    "prints a verdict": ('print(\'{"passed": true, "reason": "passed"}\', flush=True)\n' + _in_f("return 3"), WRONG),
    "writes a verdict into every descriptor": (_FRAMES + _in_f("return 3"), rf"{LOST}|{WRONG}|raised "),
    "writes noise into every descriptor": (
        _in_f("for number in range(1024):\n    try:\n        os.write(number, b'x' * 99)\n    except OSError: pass"),
        LOST,
    ),
    "closes every descriptor": (_in_f("os.closerange(0, 1024)\nwhile True:\n    pass"), LOST),
    "looks for the tests in every frame and object": (
        # Put together while it runs, or it would find itself.
        _in_f(
            "wanted, found, frame = 'f(1)' + chr(32) + '==', gc.get_objects(), sys._getframe().f_back\n"
            "while frame:\n"
            "    found += [*frame.f_locals.values(), *frame.f_globals.values()]\n"
            "    frame = frame.f_back\n"
            "texts = [repr(item)[:10**5] for item in found if isinstance(item, (str, bytes, list, dict))]\n"
            "return 2 if any(wanted in text for text in texts) else 3",
            "gc, sys",
        ),
        WRONG,
    ),
    "supplies the tests": ("def check(): pass\ndef tests(): pass\n" + _in_f("return 3"), WRONG),
}

PROGRAMS = {**FILES, **NETWORK, **PROCESSES, **RESOURCES, **ENDINGS, **FORGERIES}
