"""The demo plant's variables: the signals of the seed, and enough of each machine's real dictionary around them."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from spindle.errors import SettingsError
from spindle.settings import ROOT

INTEGER, SHORT, BOOLEAN = "java.lang.Integer", "java.lang.Short", "java.lang.Boolean"
DOUBLE, STRING = "java.lang.Double", "java.lang.String"


@dataclass(frozen=True)
class Signal:
    """One variable. `kind` names the function of plant_day that moves it about `level` by `spread`;
    `share` weighs the rows it takes of the machine's busy hours (0: it changes now and then only)."""

    name: str
    kind: str
    datatype: str = INTEGER
    level: float = 0.0
    spread: float = 0.0
    share: float = 0.0
    pattern: str = ""

    @property
    def is_text(self) -> bool:
        return self.datatype == STRING


def _axis(name: str, level: float, reach: float, share: float = 0.8, datatype: str = INTEGER) -> Signal:
    return Signal(name, "travel", datatype, level, reach, share)


def _flag(name: str, on: int = 1) -> Signal:
    return Signal(name, "flag", BOOLEAN if on == 1 else INTEGER, on)


def _constant(name: str, value: float) -> Signal:
    return Signal(name, "constant", INTEGER, value)


LATE_VARIABLE = "TEMPERATURA_MOTOR_4"  # its sensor is wired weeks after the first row

# The names that both real dictionaries have.
COMMON = (
    _axis("X", 2800, 1900, 1.0, DOUBLE),
    _axis("Y", 840, 500, 1.0, DOUBLE),
    _axis("Z", 420, 380, 1.0, DOUBLE),
    _axis("EJE_X_DISTANCIA_A_COTA", 0, 1.6e6),
    _axis("EJE_Y_DISTANCIA_A_COTA", 0, 4e5),
    _axis("EJE_Z__DISTANCIA_A_COTA", 0, 3e5),
    _axis("EJE_5_POSICION_ACTUAL_REFERENCIA", 2.1e6, 9e5, 0.4),
    _axis("EJE_8_POSICION_ACTUAL_REFERENCIA", -1.8e7, 4e5, 0.4),
    _axis("MANDRINO_POSICION_ACTUAL", 1.8e6, 1.8e6),
    _axis("FEED_CONTOUR", 2.4e6, 2.3e6, 0.5),
    Signal("EJE_5_UTILIZACION_MOTOR", "load", INTEGER, 30, 16, 0.4),
    Signal("EJE_8_UTILIZACION_MOTOR", "load", INTEGER, 22, 12, 0.4),
    Signal("MANDRINO_CONSUMO_VISUALIZADO", "load", INTEGER, 40, 18, 0.4),
    Signal("CURRENT_TIME", "clock", share=1.0),
    Signal("PROG_LINE", "counter", share=0.3),
    Signal("DILATACIONES_CORRECCION_AXIAL", "waver", INTEGER, 1240, 6, 0.2),
    Signal("DILATACIONES_CORRECCION_AXIAL_CABEZAL", "waver", INTEGER, 1890, 6, 0.2),
    Signal(LATE_VARIABLE, "temperature", SHORT, 33, 0.8, 0.1),
    Signal("SPINDLE_RPM", "setting", INTEGER, 400_000, 9),
    Signal("FEED_PROGRAMMED_MINUTE", "setting", INTEGER, 120_000, 20),
    Signal("TOOL_SPINDLE_NUMBER", "setting", INTEGER, 1, 120),
    Signal("HEAD_INDEX_MOUNTED", "setting", SHORT, 1, 3),
    Signal("OPERATING_MODE", "setting", SHORT, 1, 5),
    _flag("MACHINE_EMERGENCY", 255),
    *map(_flag, ("MACHINE_STOP_ACTIVE", "OP_MODE_STANDBY", "TELESERVICE", "TOOL_DEF", "TOOL_CALL", "COOLANT_INTERNAL")),
    *map(_flag, ("COOLANT_EXTERNAL", "ENCLOSURE_CLOSED", "PRESURE_GROUP_HIGH", "FUNCION_M128", "CONVEYOR_1_START")),
    _constant("SERIAL_NUMBER", 1245),
    _constant("CONFIG_NUMERO_EJES", 8),
    _constant("CONFIG_NUMERO_MANDRINOS", 2),
    _constant("HEAD_NUMBER_MODEL_INDEX1", 4),
    Signal("PROG_NAME", "program_name", STRING, pattern=r"TNC:\PIEZAS\P{:03d}.H"),
    Signal("ACTIVE_TOOL", "tool_name", STRING, pattern="FRESA_D{}"),
)

# The two real machines name the rest differently.
OWN: Mapping[str, tuple[Signal, ...]] = {
    "branosera": (
        _axis("AXIS_X_ACTUAL_POSITION_REFERENCE", 2.8e7, 1.9e7),
        _axis("EJE_Y_ACTUAL_POSITION_REFERENCE", 8.4e6, 5e6),
        _axis("EJE_Z_POSICION_ACTUAL_REFERENCE", 4.2e6, 3.8e6),
        Signal("VACUOSTATO_VACIO_CABEZAL", "waver", SHORT, 290, 2, 0.5),
        Signal("NIVEL_TALADRINA_DEP_1", "waver", SHORT, 546, 2, 0.3),
        Signal("HOURS_MACHINE_ON", "counter"),
        Signal("AUTOMATIC_TOOL_CHANGES", "counter"),
        Signal("OVERRIDE_FEEDRATE", "setting", SHORT, 10, 15),
    ),
    "tamesa": (
        _axis("EJE_X_POSICION_ACTUAL_REFERENCIA", 2.8e7, 1.9e7),
        _axis("EJE_Y_POSICION_ACTUAL_REFERENCIA", 8.4e6, 5e6),
        _axis("EJE_Z_POSICION_ACTUAL_REFERENCIA", 4.2e6, 3.8e6),
        Signal("TEMPERATURA_PT100", "waver", SHORT, 2140, 3, 0.5),
        Signal("FEEDRATE_OVERRIDE", "setting", SHORT, 10, 15),
        _flag("EJES_EN_MOVIMIENTO"),
    ),
}

# The real ids that analysts know by heart.
WELL_KNOWN_IDS: Mapping[str, Mapping[str, int]] = {
    "branosera": {"MACHINE_IN_OPERATION": 597, "PROG_STATUS": 581, "ALARMS": 447},
}
FIRST_ID = 300


def machine_signals(machine: str, root: Path = ROOT) -> tuple[Signal, ...]:
    """The machine's variables, those of seeds/signal_config.csv first."""
    with (root / "seeds" / "signal_config.csv").open(newline="", encoding="utf-8") as rows:
        seeded = [row for row in csv.DictReader(rows) if row["machine"] == machine]
    if not seeded:
        raise SettingsError(f"machine {machine} has no signal in seeds/signal_config.csv", "add its variables there")
    own = {row["variable"]: _from_seed(row, place) for place, row in enumerate(seeded)}
    for signal in (*COMMON, *OWN.get(machine, ())):
        own.setdefault(signal.name, signal)
    return tuple(own.values())


def _from_seed(row: Mapping[str, str], place: int) -> Signal:
    name, divisor = row["variable"], float(row["divisor"])
    match row["role"]:
        case "temperature" if divisor > 1:
            return Signal(name, "temperature", SHORT, (14 + 2 * place % 9) * divisor, 0.04 * divisor, 1.0)
        case "temperature":
            return Signal(name, "temperature", SHORT, 28 + 2 * place % 9, 0.8, 0.15)
        case "load":
            return Signal(name, "load", INTEGER, 18 + 7 * place % 30, 16, 1.0)
        case "alarms":
            return Signal(name, "alarms", STRING)
        case role:
            return Signal(name, role)


def assign_ids(machine: str, signals: tuple[Signal, ...], known: Mapping[str, int]) -> dict[str, int]:
    """An id for each name: the one it has, the well-known one, or the next free."""
    ids = dict(known)
    well_known = WELL_KNOWN_IDS.get(machine, {})
    free = (number for number in range(FIRST_ID, 2**11) if number not in {*known.values(), *well_known.values()})
    for signal in signals:
        if signal.name not in ids:
            ids[signal.name] = well_known.get(signal.name) or next(free)
    return ids


def _alarm(code: str, text: str, first: int, second: int) -> list[str | int]:
    number = 0x3000000 + int(code[3:]) if code.startswith("PLC") else int(code.replace("-", ""), 16)
    return [code, text, first, second, number]


ALARMS = (
    _alarm("PLC00410", "PUERTA TRASERA  ABIERTA !", 3, 3),
    _alarm("PLC00427", "CERRAR PUERTA DEL ALMACEN", 3, 3),
    _alarm("PLC00431", "Nivel bajo de aceite en grupo hidraulico", 3, 2),
    _alarm("PLC00502", "FALLO BOMBA  LUBRICACION", 3, 2),
    _alarm("PLC00513", "Aviso: filtro de taladrina sucio", 3, 2),
    _alarm("PLC00519", "Error de posicion en el cambiador (CAD1)!", 3, 1),
    _alarm("PLC00601", "Emergency stop pressed on panel 2", 3, 1),
    _alarm("PLC00602", "EMERGENCIA EXTERIOR ACTIVA", 3, 1),
    _alarm("PLC00644", "Attention: spindle is cold, run the warming cycle", 3, 3),
    _alarm("PLC00650", "Atención: sonda sin calibrar", 3, 3),
    _alarm("PLC01017", "Colocar la hta 41 (indice 2) en el mandrino", 3, 3),
    _alarm("PLC01018", 'Leer mensaje "MANTENIMIENTO" del operario', 3, 3),
    _alarm("130-0A12", "Servo fault on axis 'Z'", 1, 1),
    _alarm("130-0A31", "Warning: drive temperature high", 1, 2),
    _alarm("250-0C07", "No se puede abrir el fichero 'P104.H'", 1, 2),
    _alarm("270-0113", "Alarma general del variador", 1, 2),
)


def alarm_list(active: list[int]) -> str:
    """The text that a machine logs while these alarms are active."""
    return json.dumps([ALARMS[number] for number in active], separators=(",", ":"), ensure_ascii=False)
