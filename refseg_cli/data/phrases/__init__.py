"""The language of phrases about pictures with annotated objects: what they mean, its proof, and how they are said.

Reading order: nouns (the words for things) -> scene (what can be said of a picture) -> logic (what a phrase means) ->
wording (how it is said) -> proposals, generate (what is worth saying) -> annotated, photographs (photos as scenes).
"""
