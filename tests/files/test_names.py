"""Names as files and variables."""

from lensframe_pd.files.names import stored_names


def test_names_are_fit_for_any_file_system():
    names = ["a:1", "a/1", "A:1", "CON", "nul", "x.y", "", "é", "1", "T_1", "t_1", "z" * 400]
    stored = list(stored_names(names).values())
    assert len({s.lower() for s in stored}) == len(names)
    for name in stored:
        assert name.isascii()
        assert not set(name) & set('<>:"/\\|?*. ')
        assert name.lower() not in {"con", "nul", "aux", "prn"}
        assert name[0].isalpha()
        assert len(name) < 120
