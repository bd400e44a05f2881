"""Teachers: which weights score the privileged view."""

from unisd.teacher.teacher import BaseTeacher, EMATeacher, LiveTeacher, Teacher

TEACHERS: dict[str, type[Teacher]] = {
    "base": BaseTeacher,
    "ema": EMATeacher,
    "live": LiveTeacher,
}
