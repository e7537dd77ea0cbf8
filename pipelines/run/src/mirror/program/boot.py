"""What python3 is started with: the first line of its input is the program, by modules, and what is asked of it."""

import json
import sys
import types

sent = json.loads(sys.stdin.buffer.readline())
for name, text in sent["program"]:
    module = sys.modules[name] = types.ModuleType(name)
    exec(compile(text, f"{name}.py", "exec"), module.__dict__)
sys.modules["main"].main(sent["request"])
