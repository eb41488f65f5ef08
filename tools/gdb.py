"""For gdb, on a build with -O0 -g3: `gdb -x tools/gdb.py --args python program.py` (CONTRIBUTING.md has an example).

    gated EXPRESSION    the struct behind a PyObject *, by the object's type: `gated self`, `gated op`

Where the interpreter came with its own python-gdb.py (beside it, or in the folder where it was compiled), `source` that too, for py-bt.
"""

import gdb

# Types whose struct is named for the file and not for the type.
STRUCTS = {"GatheringFuture": "OuterObject", "GatedCoroutine": "GatedObject", "GatherCoroutine": "FrontDoorObject"}


class Gated(gdb.Command):
    def __init__(self):
        super().__init__("gated", gdb.COMMAND_DATA, gdb.COMPLETE_EXPRESSION)

    def invoke(self, argument, from_tty):
        value = gdb.parse_and_eval(f"(PyObject *)({argument})")
        full_name = value.dereference()["ob_type"].dereference()["tp_name"].string()
        name = full_name.rpartition(".")[2].lstrip("_")
        try:
            struct = gdb.lookup_type(STRUCTS.get(name, f"{name}Object"))
        except gdb.error:
            print(f"{full_name}: not one of gatedcoro's")
            return
        fields = value.cast(struct.pointer()).dereference()
        print(f"{full_name} at {int(value):#x}\n{fields.format_string(max_depth=3, symbols=False)}")


Gated()
