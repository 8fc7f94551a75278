-- Blank lines separate the statements.
CREATE TABLE session (
    id TEXT PRIMARY KEY,
    name TEXT,               -- what a person called it
    title TEXT NOT NULL,     -- its first prompt
    created REAL NOT NULL,
    changed REAL NOT NULL,
    selected TEXT,           -- the exchange that the branch runs through
    target TEXT NOT NULL,
    draft TEXT,
    system TEXT,
    deleted REAL,            -- when; it is gone for good once the window that did it is closed
    deleted_by TEXT
);

CREATE TABLE exchange (
    place INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    session TEXT NOT NULL REFERENCES session (id) ON DELETE CASCADE,
    parent TEXT,
    prompt TEXT NOT NULL,
    started REAL NOT NULL,
    answer TEXT NOT NULL DEFAULT '',
    ending TEXT,             -- NULL while the answer grows: until then it is in its chunks only
    digest BLOB,
    window TEXT              -- where it grows
);

CREATE INDEX exchange_of_session ON exchange (session, place);

CREATE INDEX exchange_growing ON exchange (window) WHERE ending IS NULL;

CREATE TABLE chunk (
    exchange INTEGER NOT NULL REFERENCES exchange (place) ON DELETE CASCADE,
    number INTEGER NOT NULL,
    steps INTEGER NOT NULL,
    events BLOB NOT NULL
);

CREATE UNIQUE INDEX chunk_of_exchange ON chunk (exchange, number);

CREATE TABLE race (
    id INTEGER PRIMARY KEY,
    session TEXT REFERENCES session (id) ON DELETE CASCADE,
    exchange TEXT,
    run REAL NOT NULL,
    result TEXT NOT NULL
);

CREATE INDEX race_of_session ON race (session);

CREATE TABLE window (
    id TEXT PRIMARY KEY,
    session TEXT             -- what it has open
);

CREATE VIRTUAL TABLE said USING fts5 (
    prompt, answer, content = 'exchange', content_rowid = 'place',
    tokenize = 'unicode61 remove_diacritics 2', prefix = '2 3'
);

CREATE TRIGGER said_more AFTER INSERT ON exchange BEGIN
    INSERT INTO said (rowid, prompt, answer) VALUES (new.place, new.prompt, new.answer);
END;

CREATE TRIGGER said_otherwise AFTER UPDATE OF prompt, answer ON exchange BEGIN
    INSERT INTO said (said, rowid, prompt, answer)
        VALUES ('delete', old.place, old.prompt, old.answer);
    INSERT INTO said (rowid, prompt, answer) VALUES (new.place, new.prompt, new.answer);
END;

CREATE TRIGGER said_less AFTER DELETE ON exchange BEGIN
    INSERT INTO said (said, rowid, prompt, answer)
        VALUES ('delete', old.place, old.prompt, old.answer);
END;
