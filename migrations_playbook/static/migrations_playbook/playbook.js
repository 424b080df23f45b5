// Follows what changes on a page of the playbook: asks the page's own address for it, and puts in
// place only what is another than before, so that the focus stays and a reader is not talked over.
"use strict";

(() => {
    const followed = document.querySelector("[data-follow]");
    const following = document.getElementById("following");

    function say(what) {
        if (following.textContent !== following.dataset[what]) {
            following.textContent = following.dataset[what];
        }
    }

    function put(fresh) {
        for (const part of fresh.querySelectorAll("[data-live]")) {
            const place = document.getElementById(part.id);
            if (place && place.innerHTML !== part.innerHTML) {
                place.replaceChildren(...part.childNodes);
            }
        }
    }

    async function ask() {
        const address = new URL(window.location.href);
        address.searchParams.set("live", "");
        const answer = await fetch(address, {redirect: "manual", cache: "no-store"});
        if (answer.type === "opaqueredirect" || answer.status === 403 || answer.status === 404) {
            say("ended");  // signed out, or it is there no more
            return null;
        }
        if (!answer.ok) {
            throw new Error(answer.statusText);
        }
        const text = await answer.text();
        const fresh = new DOMParser().parseFromString(text, "text/html").querySelector("[data-follow]");
        if (fresh.dataset.phase !== followed.dataset.phase) {
            window.location.replace(window.location.href);  // what is next is another command now
            return null;
        }
        put(fresh);
        say("follows");
        return Number(fresh.dataset.follow);
    }

    async function follow(seconds) {
        await new Promise((resume) => setTimeout(resume, seconds * 1000));
        if (document.hidden) {
            await new Promise((resume) => {
                document.addEventListener("visibilitychange", resume, {once: true});
            });
        }
        let again = 2 * Math.min(seconds, 30);
        try {
            again = await ask();
        } catch {
            say("lost");
        }
        if (again !== null) {
            await follow(again);
        }
    }

    async function copy(button) {
        const text = document.getElementById(button.dataset.copy);
        window.getSelection().selectAllChildren(text);
        try {
            // Only where the site is served by https; elsewhere the selection is there to be copied.
            await navigator.clipboard.writeText(text.textContent);
            button.textContent = button.dataset.copied;
        } catch {
            text.focus();
        }
    }

    for (const button of document.querySelectorAll("[data-copy]")) {
        button.addEventListener("click", () => copy(button));
    }
    if (followed) {
        say("follows");
        follow(Number(followed.dataset.follow));
    }
})();
